"""The API key of a vLLM server: sent with every request, and shown nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from opsd_cli.errors import OpsdError, UsageError
from tests.support.vllm_runs import EXPECTED, Served, sampled


def test_an_api_key_is_sent_with_every_request_and_shown_nowhere(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsd_cli.config.resolve import to_yaml

    monkeypatch.setenv("VLLM_API_KEY", "a-secret-key\n")
    server, policy = served(key="a-secret-key")
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    assert {given for _, _, given in server.asked} == {"Bearer a-secret-key"}
    assert "a-secret-key" not in to_yaml(policy._config)
    assert (
        "a-secret-key" not in repr(policy._pool.replicas[0].client._transport) + policy.description
    )


@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_error_shows_an_api_key_that_the_server_echoes(
    served: Served, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "a-secret-key")
    server, policy = served(key="a-secret-key")

    def hostile(handler: Any, path: str, body: Any) -> bool:
        handler._send(status, {"error": {"message": f"got {handler.headers['Authorization']}"}})
        return True

    server.hostile = hostile
    with pytest.raises(OpsdError) as failed:
        sampled(policy)
    assert "got Bearer ***" in failed.value.message
    assert "a-secret-key" not in failed.value.message + failed.value.hint


def test_a_missing_or_wrong_api_key_is_an_error_with_the_variable(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for key, message in ((None, "asks for an API key"), ("another", "refuses the API key")):
        if key:
            monkeypatch.setenv("VLLM_API_KEY", key)
        with pytest.raises(UsageError, match=message) as failed:
            served(key="a-secret-key")
        assert "VLLM_API_KEY" in failed.value.hint


def test_an_api_key_that_no_header_can_hold_is_refused_and_not_shown(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "two\nlines")
    with pytest.raises(UsageError, match="VLLM_API_KEY holds characters") as failed:
        served()
    assert "two" not in failed.value.message + failed.value.hint
