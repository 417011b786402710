"""Several vLLM servers that the run starts: their GPUs, restarts and end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.vllm.policy import VllmPolicy
from opsd_cli.errors import TrainingError
from tests.support.fake_vllm import interpreter
from tests.support.processes import alive
from tests.support.vllm_runs import EXPECTED, ScoringPolicy, resolved, sampled

FOUR = ("rollouts.vllm.replicas=2", "rollouts.vllm.devices=[4,5,6,7]")


def replicas(folder: Path, *assignments: str, **faults: object) -> VllmPolicy:
    """A policy that starts two fake servers of two GPUs each."""
    python = interpreter(folder, **faults)
    config = resolved(f"rollouts.vllm.python={python}", *FOUR, *assignments)
    return VllmPolicy(config, ScoringPolicy(), folder / "vllm")


def pids(folder: Path, devices: str) -> list[int]:
    """The processes of a server, each start's."""
    return [int(line) for line in (folder / f"pids-{devices}").read_text().split()]


def test_vllm_replicas_share_the_gpus_and_end_with_the_run(tmp_path: Path) -> None:
    policy = replicas(tmp_path)
    try:
        policy.apply(0.1)
        assert sampled(policy) == EXPECTED
        ports = set()
        for devices in ("4,5", "6,7"):
            command = json.loads((tmp_path / f"command-{devices}.json").read_text())
            assert command[command.index("--tensor-parallel-size") + 1] == "2"
            ports.add(command[command.index("--port") + 1])
        assert len(ports) == 2
        assert {path.name for path in (tmp_path / "vllm").glob("*.log")} == {
            "server-1.log", "server-2.log",
        }  # fmt: skip
        processes = [pid for devices in ("4,5", "6,7") for pid in pids(tmp_path, devices)]
        assert len(processes) == 2 and all(map(alive, processes))
    finally:
        policy.close()
    assert not any(map(alive, processes))


def test_a_vllm_replica_that_dies_is_restarted_and_gets_the_adapter(tmp_path: Path) -> None:
    policy = replicas(tmp_path, dies_after=2, once=True, only="6,7")
    try:
        policy.apply(0.1)
        assert sampled(policy) == EXPECTED
        for _ in range(2):  # each waits for a restart that the one before began
            policy.apply(0.1)
            assert sampled(policy) == EXPECTED
        assert len(pids(tmp_path, "4,5")) == 1
        first, second = pids(tmp_path, "6,7")
        assert not alive(first) and alive(second)
        assert not any(replica.lost for replica in policy._pool.replicas)
    finally:
        policy.close()


def test_a_vllm_replica_that_dies_too_often_is_left_out(tmp_path: Path) -> None:
    python = interpreter(tmp_path, dies_after=1, only="6,7")
    told: list[str] = []
    config = resolved(f"rollouts.vllm.python={python}", "rollouts.vllm.restarts=0", *FOUR)
    policy = VllmPolicy(config, ScoringPolicy(), tmp_path / "vllm", tell=told.append)
    try:
        assert sampled(policy) == EXPECTED
        assert sampled(policy) == EXPECTED
    finally:
        policy.close()
    (lost,) = [line for line in told if "go on" in line]
    assert policy._pool.replicas[1].client.url in lost and "has died 1 times" in lost


def test_a_vllm_replica_that_cannot_start_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="ended while it started: ValueError: no such"
    ) as failed:
        replicas(tmp_path, at_start="ValueError: no such GPU", only="6,7")
    assert "server-2.log" in failed.value.hint
    started = pids(tmp_path, "4,5") if (tmp_path / "pids-4,5").exists() else []
    assert not any(map(alive, started))
