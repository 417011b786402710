"""The commands with `grading.grader=none`: what they show in place of accuracies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import opsd_cli
from opsd_cli.cli.console import Output
from opsd_cli.cli.listeners import LiveListener
from opsd_cli.tracking.listener import EvaluationRow, Listener
from opsd_cli.tracking.trackers import TrackedListener
from tests.support.cli import QUICK, Opsd
from tests.support.fakes import FakeBackend, FakePolicy
from tests.support.training_runs import begin

#: A set without any answer.
PLAIN = "".join(
    json.dumps({"question": f"{n} + 1", "solution": f"It is one more than {n}."}) + "\n"
    for n in range(40)
)
NONE = "--set grading.grader=none"
TRAIN = f"train --set data.train=plain.jsonl {QUICK} {NONE}"


@pytest.fixture(autouse=True)
def plain(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text(PLAIN)


def test_train_without_grades_shows_held_out_measures(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(f"{TRAIN} --out run")
    assert code == 0, err
    assert "on the test split, in nats a token" in out
    assert "best (step 2)" in out and "log-probability of the" in out
    assert "divergence between the roles" in err and "validation divergence 0." in err
    assert "train divergence 0." in err
    told = out + err
    assert "accuracy" not in told and "0.0%" not in told and "nan" not in told
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    sizes = {name: each["problems"] for name, each in environment["data"].items()}
    assert sum(sizes.values()) == 40  # no question was left out for want of an answer
    code, out, err = opsd(f"{TRAIN} --out other --json")
    result = json.loads(out)
    assert result["accuracy"] == {} and result["divergence"].keys() == {"base", "best", "final"}
    code, out, err = opsd("compare run other --out c")
    assert code == 2 and "has no accuracy to compare" in err


def test_preflight_only_without_grades(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, err = opsd(f"{TRAIN} --preflight-only --out kept")
    assert code == 0, err
    assert "preflight on 32 training problems; nothing is graded" in out
    assert "divergence between the roles" in out and "makes a difference" in out
    record = json.loads((tmp_path / "kept/preflight.json").read_text())
    assert record["divergence"]["value"] > 0 and "gain" not in record
    monkeypatch.setattr(FakeBackend, "load", lambda *_: FakePolicy(skill=1.0))
    code, out, err = opsd(f"{TRAIN} --preflight-only")
    assert code == 1 and "nothing to distil: the reference makes no difference" in err


def test_eval_without_grades_shows_lengths_and_likelihood(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(f"eval --benchmark plain.jsonl {NONE} --samples 2 --out e")
    assert code == 0, err
    assert "log-probability of the" in out and "stopped" in out and "100.0%" in out
    assert "avg@" not in out and "pass@" not in out
    entry = json.loads((tmp_path / "e/results.json").read_text())["benchmarks"]["plain.jsonl"]
    assert entry["accuracy"] is entry["no_answer"] is entry["majority"] is None
    assert entry["pass_at"] == {} and entry["stopped"] == 1.0
    assert entry["reference_log_prob"]["value"] == 0.0
    assert entry["statuses"] == {"not_graded": 80}
    sample = json.loads((tmp_path / "e/samples.jsonl").read_text().splitlines()[0])
    assert sample["correct"] is None and "completion_ids" not in sample
    page = (tmp_path / "e/report.html").read_text()
    assert "Nothing is graded; log-probability" in page and "commonest wrong" not in page
    assert "right" not in (tmp_path / "e/pages/0/1.html").read_text().partition("</style>")[2]
    code, out, err = opsd(f"eval --regrade --out e --json {NONE}")
    assert json.loads(out)["benchmarks"]["plain.jsonl"]["reference_log_prob"]["value"] == 0.0
    code, out, err = opsd(f"eval --benchmark plain.jsonl {NONE} --out f --against e")
    assert code == 2 and "--against compares accuracies" in err


def test_sample_and_the_python_api_without_grades(opsd: Opsd) -> None:
    code, out, err = opsd(f"sample '1 + 1' {NONE} --json")
    assert code == 0, err
    assert json.loads(out)["completions"][0]["status"] is None
    config = opsd_cli.load_config(**{"grading.grader": "none"})
    found = opsd_cli.evaluate(config, "plain.jsonl", limit=2)
    assert found.accuracy is None
    assert found.only.reference_log_prob is not None


def test_panel_and_trackers_show_held_out_measures(tmp_path: Path) -> None:
    """The best of the panel is the lowest divergence; trackers get numbers alone."""
    begin(tmp_path / "run", NONE.removeprefix("--set "), listener=(kept := Kept()))
    live = LiveListener(Output(quiet=True))
    logged: list[dict[str, float]] = []

    class Recorder:
        def log(self, numbers: dict[str, float], step: int) -> None:
            logged.append(numbers)

    tracked = TrackedListener(live, {"recorder": Recorder()})  # type: ignore[dict-item]
    for row in kept.rows:
        tracked.evaluation(row)
    latest, best = live._validated()
    assert latest.startswith("0.0500 ") and best == "0.0500"
    assert logged[0]["test/divergence"] == pytest.approx(0.35)
    assert "test/accuracy" not in logged[0] and "test/no_answer" not in logged[0]
    assert all(isinstance(value, float) for numbers in logged for value in numbers.values())


class Kept(Listener):
    """Keeps the evaluations of a run."""

    def __init__(self) -> None:
        self.rows: list[EvaluationRow] = []

    def evaluation(self, row: EvaluationRow) -> None:
        self.rows.append(row)
