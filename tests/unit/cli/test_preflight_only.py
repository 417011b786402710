"""`opsd train --preflight-only`: student and teacher are measured, and no run is begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory
from tests.support.cli import QUICK, Opsd
from tests.support.fakes import FakeBackend, FakePolicy

ONLY = f"train --preflight-only --set data.train=good.jsonl {QUICK} --set preflight.problems=16"


def skilled(monkeypatch: pytest.MonkeyPatch, skill: float, taught: float) -> None:
    """Give the fake backend a policy of such accuracies."""
    monkeypatch.setattr(FakeBackend, "load", lambda *_: FakePolicy(skill=skill, taught=taught))


def test_preflight_only_where_training_would_go_on(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(ONLY)
    assert code == 0, err
    assert "preflight on 16 training problems" in out
    assert "teacher     100.0% (" in out
    assert "difference" in out and " points (" in out
    assert "there is something to distil" in out
    assert "question: " in out and "student (answered " in out and "teacher (right): " in out
    assert "--out DIR keeps" in err and "without --preflight-only trains" in err
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]  # no run was begun


def test_preflight_only_where_the_run_would_end(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skilled(monkeypatch, 0.0, 0.0)
    code, out, err = opsd(f"{ONLY} --out checked")
    assert code == 1
    assert "100%" in out and "teacher (answered " in out
    assert "nothing to distil: the teacher writes full answers" in err
    assert "prompts.few_shot.examples=2" in err and "larger model" in err
    assert "max_new_tokens" not in err
    names = {path.name for path in (tmp_path / "checked").iterdir()}
    assert names == {
        run_directory.PREFLIGHT,
        run_directory.PREFLIGHT_SAMPLES,
        "preflight-sources.json",
        "preflight-sources-samples.jsonl",
    }


def test_preflight_only_as_json(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skilled(monkeypatch, 0.0, 1.0)
    code, out, err = opsd(f"{ONLY} --json --out checked")
    assert code == 0, err
    found = json.loads(out)
    assert found["goes_on"] is True and found["cause"] == "gain_from_zero"
    assert found["directory"] == "checked" and found["advice"]
    assert found["preflight"]["gain"]["value"] == 1
    assert found["preflight"]["outcomes"]["student"]["wrong"] == 1
    assert json.loads((tmp_path / "checked" / "preflight.json").read_text()) == found["preflight"]
    rows = list(read_rows(tmp_path / "checked" / run_directory.PREFLIGHT_SAMPLES))
    assert [row["role"] for row in rows] == ["student"] * 16 + ["teacher"] * 16


def test_preflight_only_measures_what_a_run_measures(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(f"{ONLY} --out checked")[0] == 0
    assert opsd(f"{ONLY.replace('--preflight-only', '')} --out run")[0] == 0
    for name in (run_directory.PREFLIGHT, run_directory.PREFLIGHT_SAMPLES):
        assert (tmp_path / "checked" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_preflight_only_measures_where_the_preflight_is_off(opsd: Opsd) -> None:
    code, out, err = opsd(f"{ONLY} --set preflight.enabled=false")
    assert code == 0, err
    assert "preflight on 16 training problems" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--resume --out run", "--resume goes on with a run"),
        ("--resume-from 2 --out run", "--resume goes on with a run"),
        ("--sources hint", "the problems have no column 'hint'"),
        ("--sources feedback", "needs a grader that says what is wrong"),
        ("--log tensorboard", "--log copies the metrics of a run"),
        ("--method sft", "method sft has no teacher, so there is no preflight"),
    ],
)
def test_preflight_only_refuses_contradictory_flags(
    opsd: Opsd, tmp_path: Path, flags: str, said: str
) -> None:
    code, _, err = opsd(f"{ONLY} {flags}")
    assert code == 2 and said in err and "hint: " in err
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]


def test_preflight_only_keeps_out_of_a_directory_in_use(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    code, _, err = opsd(f"{ONLY} --out run")
    assert code == 2 and "run is not empty" in err


def test_preflight_only_leaves_no_directory_where_it_fails(opsd: Opsd, tmp_path: Path) -> None:
    code, _, err = opsd(f"{ONLY} --set train.questions_per_step=50 --out checked")
    assert code == 2 and "training problems" in err
    assert not (tmp_path / "checked").exists()


def test_preflight_only_of_a_teacher_that_reads_siblings(opsd: Opsd, tmp_path: Path) -> None:
    siblings = "--set teacher.reference=sibling --set rollouts.per_question=3"
    code, out, err = opsd(f"{ONLY} {siblings} --out checked")
    assert code == 0, err
    assert "problems have a right rollout among 3" in err and "student (answered " in out
    rows = list(read_rows(tmp_path / "checked" / run_directory.PREFLIGHT_SAMPLES))
    assert [row["role"] for row in rows][:48] == ["sibling"] * 48


def test_preflight_only_compares_the_references_that_the_data_allows(opsd: Opsd) -> None:
    code, out, err = opsd(ONLY)
    assert code == 0, err
    assert "the teacher with each reference" in out and "favours right: of two" in out
    for source in ("solution", "answer", "sibling"):
        assert f"\n{source} " in out
    assert "cannot be told apart" in out
    code, out, err = opsd(f"{ONLY} --sources answer --json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["reference"] for row in found["sources"]] == ["solution", "answer"]
    assert found["recommended"] is None and "told apart" in found["reason"]


def test_preflight_only_dry_run_says_what_it_takes(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(f"{ONLY} --dry-run --sources answer")
    assert code == 0, err
    assert "sources: solution, answer\n" in out
    assert "completions: at most 176, " in out  # 16 x (1 + 2) answers, 16 x 8 attempts
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]


def test_sources_are_refused_without_the_preflight_alone(opsd: Opsd) -> None:
    code, _, err = opsd("train --sources answer")
    assert code == 2 and "give it with --preflight-only" in err
