"""Validation of a vLLM server's address and arguments."""

from __future__ import annotations

import pytest

from opsd_cli.config.resolve import resolve, to_yaml, validate
from opsd_cli.config.schema import Config
from opsd_cli.config.server_settings import addresses, device_groups
from opsd_cli.config.yaml_files import read_yaml
from opsd_cli.errors import ConfigError


def config(*assignments: str) -> Config:
    return resolve(None, ["rollouts.engine=vllm", *assignments])


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000", "ftp://a", "http://", "http://:8000", "http://a:99999", "http://a:0",
        "http://a:port", "http://[::1", "http://a b", "http://a?x=1", "http://a#x", "", "//a",
        "http://a:8000/v1", "http://a:8000/v1/", "http://b\u00fccher:8000", "http://a\x00b",
    ],
)  # fmt: skip
def test_vllm_url_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"rollouts\.vllm\.url (is|holds)") as failed:
        resolve(None, [], {"rollouts": {"engine": "vllm", "vllm": {"url": url}}})
    assert failed.value.hint


@pytest.mark.parametrize(
    "url",
    ["http://a", "http://a:8000", "https://a.b:443/path", "http://[::1]:8000/", "http://10.0.0.1"],
)
def test_vllm_url_that_is_an_address_is_accepted(url: str) -> None:
    config(f"rollouts.vllm.url={url}")


@pytest.mark.parametrize("url", ["http://me:hunter2@a:8000", "http://hunter2@a", "hunter2@a:1"])
def test_vllm_url_with_a_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="holds a user or password") as failed:
        config(f"rollouts.vllm.url={url}")
    assert "hunter2" not in failed.value.message + failed.value.hint
    assert "VLLM_API_KEY" in failed.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data-parallel-size", "2"], ["--data-parallel-size=2"], ["--data_parallel_size=2"],
        ["-dp", "4"], ["-dp=4"], ["--data-parallel-size-local", "2"], ["--api-server-count", "2"],
        ["-asc", "2"], ["--data-parallel-rank", "0"], ["--data-parallel-hybrid-lb"],
        ["--data-parallel-si", "2"], ["--enforce-eager", "--data-parallel-size", "2"],
    ],
)  # fmt: skip
def test_vllm_data_parallelism_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="reaches only the replica that answers") as failed:
        config(f"rollouts.vllm.arguments={arguments}")
    assert "--tensor-parallel-size" in failed.value.hint


def test_vllm_tensor_parallelism_is_accepted() -> None:
    for arguments in (["--data-parallel-size", "1"], ["-dp=1"], ["--tensor-parallel-size", "2"]):
        config(f"rollouts.vllm.arguments={arguments}")


@pytest.mark.parametrize("arguments", [["--api-key", "hunter2"], ["--api_key=hunter2"]])
def test_vllm_api_key_argument_is_refused_without_showing_it(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="holds --api-key") as failed:
        config(f"rollouts.vllm.arguments={arguments}")
    assert "hunter2" not in failed.value.message + failed.value.hint


@pytest.mark.parametrize(
    "given",
    [
        ["http://a:8000/", "http://b:8000"], "http://a:8000, http://b:8000/",
        "[http://a:8000, 'http://b:8000']",
    ],
)  # fmt: skip
def test_vllm_url_of_several_servers_is_a_list_or_text_with_commas(given: object) -> None:
    found = resolve(None, [], {"rollouts": {"engine": "vllm", "vllm": {"url": given}}})
    url = found.rollouts.vllm.url
    assert url is not None and addresses(url) == ("http://a:8000", "http://b:8000")
    assert validate(read_yaml(to_yaml(found), "a run's config")) == found


def test_vllm_url_with_one_wrong_address_among_several_names_it() -> None:
    for wrong in ("b:8000", "", "http://b/v1"):
        with pytest.raises(ConfigError, match=f"rollouts.vllm.url is {wrong!r}"):
            config(f"rollouts.vllm.url=http://a:8000,{wrong}")
    with pytest.raises(ConfigError, match="names http://a:8000 twice"):
        config("rollouts.vllm.url=http://a:8000,http://a:8000/")


@pytest.mark.parametrize(
    ("devices", "replicas", "groups"),
    [
        ("4,5,6,7", 1, ["4,5,6,7"]), ("[4, 5, 6, 7]", 2, ["4,5", "6,7"]),
        ([4, 5, 6, 7], 4, ["4", "5", "6", "7"]), (1, 1, ["1"]), (None, 2, [None, None]),
        (["GPU-1a", "GPU-2b"], 2, ["GPU-1a", "GPU-2b"]),
    ],
)  # fmt: skip
def test_vllm_devices_are_divided_among_the_replicas(
    devices: object, replicas: int, groups: list[str | None]
) -> None:
    settings = {"engine": "vllm", "vllm": {"devices": devices, "replicas": replicas}}
    vllm = resolve(None, [], {"rollouts": settings}).rollouts.vllm
    assert device_groups(vllm.devices, vllm.replicas) == groups


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["url=http://a", "replicas=2"], "url and rollouts.vllm.replicas exclude each other"),
        (["url=http://a", "devices=1"], "url and rollouts.vllm.devices exclude each other"),
        (["replicas=3", "devices=1,2,3,4"], "names 4 GPUs, which 3 servers cannot share evenly"),
        (["replicas=2", "devices=1"], "names 1 GPUs, which 2 servers cannot share evenly"),
        (["replicas=2", "devices=1,1"], "with a GPU named twice or left empty"),
        (["devices=1,,2"], "with a GPU named twice or left empty"),
        (["replicas=3"], "3 servers with 0.4 of a GPU's memory each do not fit"),
        (["replicas=0"], "greater than 0"),
    ],
)
def test_vllm_servers_and_gpus_that_do_not_fit_are_refused(
    assignments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as failed:
        config(*(f"rollouts.vllm.{assignment}" for assignment in assignments))
    assert failed.value.hint
