"""A vLLM server that the run starts: its command, key, restarts and end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.vllm.client import Client
from backends.vllm.policy import VllmPolicy
from opsd_cli.errors import BackendMissing, OpsdError, TrainingError, UsageError
from tests.support.fake_vllm import interpreter
from tests.support.fakes import FakePolicy
from tests.support.processes import alive, gone
from tests.support.vllm_runs import EXPECTED, own_server, resolved, sampled


def test_the_command_line_of_a_started_server_and_its_end(tmp_path: Path) -> None:
    policy = own_server(
        tmp_path, "lora.rank=12", 'rollouts.vllm.arguments=["--enforce-eager"]',
        "rollouts.vllm.devices=2,3",
    )  # fmt: skip
    assert sampled(policy) == EXPECTED
    command = json.loads((tmp_path / "command.json").read_text())
    assert command[command.index("--max-lora-rank") + 1] == "16"
    assert "--enable-lora" in command and command[-1] == "--enforce-eager"
    assert command[command.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert (tmp_path / "devices").read_text() == "2,3"
    # Its key is on no command line, which every user of the machine can read.
    key = (tmp_path / "key").read_text()
    assert len(key) >= 32 and not any(key in argument for argument in command)
    assert key not in (tmp_path / "vllm/server.log").read_text()
    process = int((tmp_path / "pid").read_text())
    assert alive(process)
    policy.close()
    assert not alive(process)


def test_each_started_server_has_its_own_api_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of-another-server")
    keys = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        policy = own_server(tmp_path / name)
        try:
            assert sampled(policy) == EXPECTED
            keys.append((tmp_path / name / "key").read_text())
            stranger = Client(policy._pool.replicas[0].client.url, 10.0)
            with pytest.raises(UsageError, match="asks for an API key"):
                stranger.models()
        finally:
            policy.close()
    assert len({*keys, "of-another-server"}) == 3


def test_a_started_server_of_an_old_version_is_ended(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="is too old"):
        own_server(tmp_path, version="0.9.2rc1")
    assert not alive(int((tmp_path / "pid").read_text()))


def test_an_interpreter_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_bytes(b"\0\0not a program")
    python.chmod(0o755)
    with pytest.raises(UsageError, match=f"{python} cannot be run"):
        VllmPolicy(resolved(f"rollouts.vllm.python={python}"), FakePolicy(), tmp_path / "vllm")


def test_a_restart_loses_no_rollout_of_the_step(tmp_path: Path) -> None:
    policy = own_server(tmp_path, dies_after=12, once=True)
    policy.apply(0.1)
    try:
        assert sampled(policy) == EXPECTED
        first = (tmp_path / "pid").read_text()
        assert sampled(policy) == EXPECTED  # dies in the middle of this
        assert (tmp_path / "pid").read_text() != first
    finally:
        policy.close()


def test_a_server_that_dies_too_often_ends_the_run(tmp_path: Path) -> None:
    policy = own_server(tmp_path, "rollouts.vllm.restarts=2", dies_after=2)
    try:
        with pytest.raises(TrainingError, match="has died 3 times"):
            sampled(policy)
    finally:
        policy.close()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "memory ran out"),
        ("ValueError: unknown architecture", "ended while it started: ValueError: unknown arch"),
    ],
)
def test_a_server_that_cannot_start_is_an_error_with_its_reason(
    tmp_path: Path, said: str, message: str
) -> None:
    with pytest.raises(TrainingError, match=message) as failed:
        own_server(tmp_path, at_start=said)
    assert "server.log" in failed.value.hint or "gpu_memory" in failed.value.hint


def test_a_config_that_vllm_cannot_serve_is_refused_before_the_start(tmp_path: Path) -> None:
    def refused(*assignments: str) -> OpsdError:
        with pytest.raises(OpsdError) as error:
            VllmPolicy(resolved(*assignments), FakePolicy(), tmp_path / "vllm")
        return error.value

    assert "DoRA" in refused("lora.dora=true").message
    assert "rank 1000" in refused("lora.rank=1000").message
    assert "no interpreter" in refused("rollouts.vllm.python=nosuch").message
    missing = refused()
    assert isinstance(missing, BackendMissing) and "vLLM is not installed" in missing.message
    assert not (tmp_path / "vllm").exists()


def test_a_started_server_ends_when_the_run_is_killed(tmp_path: Path) -> None:

    python = interpreter(tmp_path)
    script = (
        "from pathlib import Path\n"
        "from backends.vllm.policy import VllmPolicy\nfrom opsd_cli.config.resolve import resolve\n"
        "from tests.support.fakes import FakePolicy\n"
        f"config = resolve(None, ['rollouts.vllm.python={python}'])\n"
        f"VllmPolicy(config, FakePolicy(), Path({str(tmp_path / 'vllm')!r}))\n"
        "print('up', flush=True)\ninput()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "up\n"
        process = int((tmp_path / "pid").read_text())
        assert alive(process)
        run.kill()
    assert gone(process)
