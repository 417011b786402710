"""What `opsd train` says at the end of a run, and before one that cannot start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.formatting import count, duration
from opsd_cli.training.totals import TIME_KINDS, TOKEN_KINDS
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


@pytest.mark.parametrize("dry_run", ["", " --dry-run"])
def test_train_with_more_questions_per_step_than_problems_is_refused(
    opsd: Opsd, dry_run: str
) -> None:
    words = f"train --set data.train=good.jsonl {QUICK} --batch 1000{dry_run}"
    code, out, err = opsd(words)
    assert code == 2 and not out
    assert "train.questions_per_step is 1000, but there are only" in err


def test_train_has_the_same_totals_in_terminal_result_and_page(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(f"train --json --out run --set data.train=good.jsonl {QUICK}")
    assert code == 0, err
    result = json.loads(out)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    tokens = result["tokens"]
    assert set(tokens) == set(TOKEN_KINDS) and set(result) >= set(TIME_KINDS)
    said = f"{count(tokens['trained'])} trained, {count(tokens['evaluation'])} in evaluations"
    assert said in " ".join(err.split()) and f"in {duration(result['seconds'])};" in err
    page = (tmp_path / "run" / "report.html").read_text()
    for kind, (name, what) in TOKEN_KINDS.items():
        assert f"<td>{name}<td>{what}".replace("'", "&#x27;") + f"<td>{tokens[kind]:,}" in page
    for kind, (name, what) in TIME_KINDS.items():
        assert f"<td>{name}<td>{what}<td>{duration(result[kind])}" in page


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "",
            "40 rollouts precede step 1, up to 168 if the reference does not help: 32 of "
            "preflight, 4 of validation, 4 of test (fewer with preflight.problems, "
            "data.validation_problems, data.test_problems)",
        ),
        (
            "--set preflight.enabled=false --set evaluation.samples=3",
            "24 rollouts precede step 1: 0 of preflight, 12 of validation, 12 of test (fewer with "
            "data.validation_problems, data.test_problems)",
        ),
    ],
)
def test_train_says_at_its_start_how_many_rollouts_precede_step_1(
    opsd: Opsd, settings: str, said: str
) -> None:
    words = f"train --set data.train=good.jsonl {QUICK} --set preflight.problems=16 {settings}"
    code, _, err = opsd(f"{words} --out run --json")
    assert code == 0, err
    assert said in err
    _, _, err = opsd("train --resume --out run")
    assert "precede step 1" not in err


@pytest.mark.parametrize("flag", ["--steps", "--set train.steps="])
def test_train_extends_a_finished_run(opsd: Opsd, flag: str) -> None:
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK}")[0] == 0
    resume = "train --resume --out run"
    more = f"{flag} 6" if flag.startswith("--st") else f"{flag}6"
    code, out, err = opsd(f"{resume} {more} --json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 6 and "extended from 4 to 6 steps" in err
    code, _, err = opsd(f"{resume} {more}")
    assert code == 2 and "has finished its 6 steps" in err and "hint: " in err
    code, _, err = opsd(f"{resume} {more} --lr 1")
    assert code == 2 and "which flags cannot change" in err
