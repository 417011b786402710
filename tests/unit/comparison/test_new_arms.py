"""The arms of `opsd_cli.compare`: those of the command's flags, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import backends
import opsd_cli
from opsd_cli import errors
from opsd_cli.errors import UsageError
from tests.support.bad_input import GOOD
from tests.support.cli import typed

QUICK = {"train.steps": 4, "train.evaluate_every": 1, "train.questions_per_step": 8}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with good.jsonl, and a policy without a model."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)
    return tmp_path


def test_compare_plans_the_arms_of_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise errors.Interrupted("planned")

    monkeypatch.setattr("opsd_cli.comparison.session.train_arms", stop)
    settings = {**QUICK, "data.train": "good.jsonl"}
    flags = "".join(f" --set {key}={json.dumps(value)}" for key, value in settings.items())
    words = "--vary divergence.kind=jsd,reverse_kl --vary train.passes=2 --grid --seeds 1"
    words += " --halving --halving-rounds 1 --set data.watch=good.jsonl"
    assert typed(f"compare {words} --out c{flags}", monkeypatch) == 130
    with pytest.raises(errors.Interrupted):
        opsd_cli.compare(
            opsd_cli.load_config(**settings), "d", seeds=1, grid=True, watch="good.jsonl",
            vary={"divergence.kind": ["jsd", "reverse_kl"], "train.passes": [2]},
            halving=True, halving_rounds=1,
        )  # fmt: skip
    one, other = (json.loads((folder / name / "plan.json").read_text()) for name in "cd")
    assert one == other and len(one["variation"]["arms"]) == 2
    assert one["halving"]["pauses"]["opsd"] == [2]
    assert one["configs"]["opsd"]["data"]["watch"] == "good.jsonl"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": True}, "grid combines"),
        ({"halving_rounds": 2}, "are of halving"),
        ({"vary": {"train.passes": [2, 3]}, "halving": True, "tune": True}, "tune measures"),
        ({"vary": {"train.passes": [2, 3]}, "halving": True, "halving_fraction": 2}, "fraction"),
        ({"vary": {"train.passes": 3}}, "not a list"),
        ({"vary": {"seed": [3]}}, "cannot vary seed"),
        ({"vary": {"train.passes": [2]}, "halving": True}, "there are 2"),
        ({"watch": "good.jsonl", "resume": True, "out": "c"}, "of a new comparison"),
    ],
)
def test_compare_refuses_arms(folder: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opsd_cli.compare(**given)
    assert [path.name for path in folder.iterdir()] == ["good.jsonl"]
