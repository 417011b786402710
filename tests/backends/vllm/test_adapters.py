"""Adapters at a vLLM server: their names, loading, loss and failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.vllm.policy import VllmPolicy
from opsd_cli.errors import TrainingError
from tests.support.fakes import FakePolicy
from tests.support.vllm_runs import (
    EXPECTED,
    REQUESTS,
    SAMPLING,
    Served,
    models_asked,
    resolved,
    sampled,
    short,
)


def test_each_version_of_the_adapter_is_loaded_once_under_its_own_name(served: Served) -> None:
    server, policy = served()
    sampled(policy)
    assert models_asked(server) == {"base"}  # before the first step there is no adapter
    for step in (1, 2):
        policy.apply(0.1)
        server.calls.clear()
        sampled(policy)
        sampled(policy)
        assert models_asked(server) == {f"v{step:06d}"}
        loads = [body for path, body in server.calls if path == "/v1/load_lora_adapter"]
        assert len(loads) == 1  # once a version, however many batches are sampled
    assert [short(name) for name in server.adapters] == ["v000002"]
    policy.close()
    assert not server.adapters


def test_a_lost_adapter_is_loaded_again(served: Served) -> None:
    server, policy = served()
    policy.apply(0.1)
    sampled(policy)
    server.adapters.clear()
    assert sampled(policy) == EXPECTED
    assert [short(name) for name in server.adapters] == ["v000001"]


def test_adapters_of_another_run_are_never_used(served: Served, tmp_path: Path) -> None:
    server, policy = served()
    policy.apply(0.1)
    sampled(policy)  # if it is killed now, its adapter stays on disk and in the server
    before = set(server.adapters)
    again = VllmPolicy(resolved(f"rollouts.vllm.url={server.url}"), FakePolicy(), tmp_path / "vllm")
    again.restore(next((tmp_path / "vllm").glob("opsd-*")))
    sampled(again)
    assert len(set(server.adapters) - before) == 1
    assert {short(name) for name in server.adapters} == {"v000001"}


def test_an_adapter_that_cannot_be_written_is_an_error_with_its_folder(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, policy = served()
    policy.apply(0.1)

    def full(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(policy._inner, "save_adapter", full)
        for draw in (sampled, lambda policy: policy.prefetch(REQUESTS, SAMPLING)):
            with pytest.raises(TrainingError, match=r"opsd-.*: No space left on device") as failed:
                draw(policy)
            assert "rollouts.vllm.adapters" in failed.value.hint
    assert sampled(policy) == EXPECTED  # the incomplete adapter was not loaded
