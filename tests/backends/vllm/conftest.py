"""Fake vLLM servers in this process, and a policy that uses them by their addresses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.vllm.policy import VllmPolicy
from tests.support.fake_vllm import FakeVllm
from tests.support.fakes import FakePolicy
from tests.support.vllm_runs import InstantClock, ScoringPolicy, Served, Several, resolved


@pytest.fixture
def started() -> Iterator[Callable[..., FakeVllm]]:
    """Starts servers, with faults as keyword arguments."""
    servers: list[FakeVllm] = []

    def start(port: int = 0, **faults: Any) -> FakeVllm:
        server = FakeVllm(port, **faults)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def served(started: Callable[..., FakeVllm], tmp_path: Path) -> Served:
    """One server and its policy: faults as keyword arguments, and assignments to the config."""

    def start(*assignments: str, **faults: Any) -> tuple[FakeVllm, VllmPolicy]:
        server = started(**faults)
        config = resolved(f"rollouts.vllm.url={server.url}", *assignments)
        return server, VllmPolicy(config, FakePolicy(), tmp_path / "vllm", InstantClock())

    return start


@pytest.fixture
def several(started: Callable[..., FakeVllm], tmp_path: Path) -> Iterator[Several]:
    """As many servers as there are mappings of faults, their policy, and the warnings."""
    policies: list[VllmPolicy] = []

    def start(
        *faults: dict[str, Any], assignments: tuple[str, ...] = ()
    ) -> tuple[list[FakeVllm], VllmPolicy, list[str]]:
        servers = [started(**each) for each in faults]
        urls = ",".join(server.url for server in servers)
        told: list[str] = []
        config = resolved(f"rollouts.vllm.url={urls}", *assignments)
        folder, clock = tmp_path / "vllm", InstantClock()
        policies.append(VllmPolicy(config, ScoringPolicy(), folder, clock, told.append))
        return servers, policies[-1], told

    yield start
    for policy in policies:
        policy.close()
