"""A fake vLLM server in this process, and a policy that uses it by its address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.vllm.policy import VllmPolicy
from tests.support.fake_vllm import FakeVllm
from tests.support.fakes import FakePolicy
from tests.support.vllm_runs import InstantClock, Served, resolved


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Starts servers, with faults as keyword arguments and assignments to the config."""
    servers: list[FakeVllm] = []

    def start(*assignments: str, **faults: Any) -> tuple[FakeVllm, VllmPolicy]:
        server = FakeVllm(**faults)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = resolved(f"rollouts.vllm.url={server.url}", *assignments)
        return server, VllmPolicy(config, FakePolicy(), tmp_path / "vllm", InstantClock())

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
