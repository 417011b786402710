"""Validation of a vLLM server's address and arguments."""

from __future__ import annotations

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ConfigError


def config(*assignments: str) -> object:
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
