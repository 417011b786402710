"""What `opsd train` prints at the end of a run."""

from __future__ import annotations

import pytest

from tests.support.cli import QUICK, Opsd
from tests.support.fakes import FakeBackend, FakePolicy


def test_train_that_learns_nothing_says_so_at_its_end(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "load", lambda *_: FakePolicy(skill=1.0, gain=0.0))
    words = f"train --out run --method grpo --set data.train=good.jsonl {QUICK} --quiet"
    for command in (words, "train --resume --out run --quiet"):
        code, _, err = opsd(command)
        assert code == 0
        assert "warning: nothing was learnt: no step had a loss batch" in err
