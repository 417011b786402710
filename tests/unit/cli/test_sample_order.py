"""`samples.jsonl` of an evaluation: the same bytes, whichever samples were drawn first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Rollout
from tests.support.cli import Opsd
from tests.support.fakes import FakePolicy

EVALUATE = "eval --benchmark good.jsonl --limit 4 --samples 2 --out"
drawn = FakePolicy.generate


def as_asked(self: FakePolicy, requests: Any, *rest: Any) -> Iterator[Rollout]:
    """The rollouts in the order of the requests; the fake's own is the reverse."""
    return reversed(list(drawn(self, requests, *rest)))  # type: ignore[return-value]


def interrupted(self: FakePolicy, requests: Any, *rest: Any) -> Iterator[Rollout]:
    """Ctrl-C after three rollouts."""
    yield from list(drawn(self, requests, *rest))[:3]
    raise KeyboardInterrupt


def test_samples_file_does_not_depend_on_the_order_of_sampling(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated(name: str, words: str = EVALUATE) -> bytes:
        code, _, err = opsd(f"{words} {name}")
        assert code == 0, err
        return (tmp_path / name / "samples.jsonl").read_bytes()

    one = evaluated("one")
    rows = [json.loads(line) for line in one.splitlines()]
    problems = list(json.loads((tmp_path / "one/problems.json").read_text())["good.jsonl"])
    assert [(row["problem_id"], row["sample_index"]) for row in rows] == [
        (problem, index) for problem in problems for index in range(2)
    ]
    monkeypatch.setattr(FakePolicy, "generate", as_asked)
    assert evaluated("two") == one
    monkeypatch.setattr(FakePolicy, "generate", interrupted)
    assert opsd(f"{EVALUATE} three")[0] == 130
    kept = (tmp_path / "three/samples.jsonl").read_bytes().splitlines()
    assert len(kept) == 3 and kept != one.splitlines()[:3]
    monkeypatch.setattr(FakePolicy, "generate", as_asked)
    assert evaluated("three", "eval --resume --out") == one
