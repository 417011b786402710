"""Requests of the canary, with which a vLLM server proves its weights."""

from __future__ import annotations

from typing import Any

import pytest

from backends.vllm.transport import Response, Transport
from tests.support.vllm_runs import Several, sampled


def test_a_canary_may_take_as_long_as_a_completion(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server's first one compiles for longer than a short answer may take."""
    deadlines: list[float] = []
    call = Transport.call

    def noting(
        self: Transport, method: str, path: str, body: Any, seconds: float, most_bytes: int
    ) -> Response:
        if body is not None and b"prompt_logprobs" in body:
            deadlines.append(seconds)
        return call(self, method, path, body, seconds, most_bytes)

    monkeypatch.setattr(Transport, "call", noting)
    _, policy, _ = several({}, {}, assignments=("rollouts.vllm.request_seconds=777",))
    sampled(policy)
    assert deadlines == [777.0, 777.0]
