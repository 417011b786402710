"""Delegation: what a vLLM policy does not do itself, the policy of the backend does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Policy, PolicyGradientBatch
from backends.shared.delegation import DelegatingPolicy
from backends.vllm.policy import VllmPolicy
from tests.support.fakes import FakePolicy
from tests.support.vllm_runs import REQUESTS, SAMPLING, Served

MEMBERS = [name for name in vars(Policy) if not name.startswith("_")]
BATCH = PolicyGradientBatch(())


class Recording:
    """A policy that notes each call and returns the name of what was called."""

    tokenizer = FakePolicy.tokenizer

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        if isinstance(inspect.getattr_static(Policy, name), property):
            return name

        def method(*arguments: Any) -> str:
            self.calls.append((name, arguments))
            return name

        return method


def test_delegation_names_every_member_of_the_policy_protocol() -> None:
    assert set(Policy.__annotations__) == {"tokenizer"}
    for name in MEMBERS:
        assert name in vars(DelegatingPolicy), name
        mine, wanted = (
            inspect.signature(getattr(kind, name)) if callable(getattr(kind, name)) else None
            for kind in (DelegatingPolicy, Policy)
        )
        assert mine == wanted, name


def test_delegation_passes_every_argument_on() -> None:
    inner: Any = Recording()
    policy = DelegatingPolicy(inner)
    assert policy.tokenizer is inner.tokenizer
    folder = Path("somewhere")
    arguments: dict[str, tuple[Any, ...]] = {
        "generate": (REQUESTS, SAMPLING, "teacher", "ema"),
        "score": ([((1,), (2,))], "teacher", "live", SAMPLING),
        "measure": (BATCH,), "accumulate": (BATCH,), "apply": (0.1,), "memory": (),
        "save_adapter": (folder,), "save_merged": (folder, "float16"), "save": (folder,),
        "restore": (folder,), "load_adapter": (folder,),
    }  # fmt: skip
    for name in MEMBERS:
        if isinstance(vars(Policy)[name], property):
            assert getattr(policy, name) == name
            continue
        result = getattr(policy, name)(*arguments[name])
        assert inner.calls[-1] == (name, arguments[name])
        assert result in (name, None)  # None of those that return nothing


def test_a_vllm_policy_has_no_attribute_by_accident(served: Served) -> None:
    _, policy = served()
    assert "__getattr__" not in vars(VllmPolicy) and isinstance(policy, DelegatingPolicy)
    with pytest.raises(AttributeError):
        _ = policy.drawn  # type: ignore[attr-defined]
