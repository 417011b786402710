"""`opsd compare --vary`: its plan, what it refuses, and one comparison from flags to page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.comparison.jobs import read_plan
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.summary import summarise
from tests.support.cli import Opsd
from tests.support.varied_runs import varied_runs

SMALL = " ".join(
    f"--set {assignment}"
    for assignment in (
        "train.steps=2", "train.evaluate_every=1", "train.questions_per_step=2",
        "data.validation_problems=3", "data.test_problems=4", "evaluation.samples=1",
        "sampling.max_new_tokens=6", "preflight.enabled=false", "train.passes=1",
        "data.watch=good.jsonl", "data.watch_problems=3",
    )
)  # fmt: skip


def test_dry_run_of_vary_lists_the_arms_and_what_they_add(opsd: Opsd) -> None:
    words = "compare --vary divergence.kind=jsd,forward_kl --vary train.passes=4 --dry-run"
    code, out, err = opsd(f"{words} --json --seeds 2")
    assert code == 0, err
    found = json.loads(out)
    assert found["methods"] == list(found["plan"]) == [
        "opsd", "opsd divergence.kind=jsd", "opsd divergence.kind=forward_kl",
        "opsd train.passes=4",
    ]  # fmt: skip
    cost = found["variation"]["cost_at_most"]
    assert (cost["runs"], cost["added_runs"]) == (8, 6)
    one = found["plan"]["opsd"]
    assert cost["generated"] == 8 * one["generated_tokens_at_most"]
    assert cost["added_evaluation"] == 6 * one["evaluation_tokens_at_most"]
    assert found["variation"]["arms"]["opsd train.passes=4"]["changes"] == {"train.passes": 4}
    code, out, _ = opsd(words)
    assert code == 0 and "12 runs: at most" in out and "--vary adds 9 runs" in out
    assert out.count("with prompts of about") == 1  # the arms have the same


def test_dry_run_of_vary_has_other_methods_and_a_grid(opsd: Opsd) -> None:
    words = "--vary divergence.kind=jsd --vary train.passes=4 --grid --dry-run --json"
    code, out, err = opsd(f"compare --methods opsd,grpo {words}")
    assert code == 0, err
    assert json.loads(out)["methods"] == [
        "opsd", "opsd divergence.kind=jsd train.passes=4", "grpo",
    ]  # fmt: skip
    code, out, _ = opsd("compare --methods grpo --vary grpo.loss=dapo,grpo --dry-run --json")
    assert code == 0 and json.loads(out)["methods"][0] == "grpo"
    code, out, _ = opsd("compare --set method=sft --vary train.passes=2,3 --dry-run --json")
    assert code == 0 and json.loads(out)["methods"][0] == "sft"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("--vary divergence.kid=jsd", "unknown config key 'divergence.kid'", "divergence.kind"),
        ("--vary divergence.kind=jds", "divergence.kind: input should be", "forward_kl"),
        ("--vary train.passes", "is not KEY=A,B", "--vary"),
        ("--vary seed=1,2", "cannot vary seed", "--seeds"),
        ("--vary evaluation.samples=3", "another evaluation sampling", "training alone"),
        ("--grid", "--grid combines", "--vary"),
        ("--vary optimizer.learning_rate=1e-3 --tune", "--tune chooses", "leave out one"),
        ("--vary train.passes=2 --resume --out c", "new comparison", "leave them out"),
        ("a b --vary train.passes=2", "new comparison", "leave them out"),
        ("--halving --resume --out c", "new comparison", "leave them out"),
    ],
)
def test_vary_refuses_before_anything_is_written(
    opsd: Opsd, tmp_path: Path, words: str, message: str, hint: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, _, err = opsd(f"compare {words}")
    assert code == 2 and message in err and hint in err.partition("hint:")[2], err
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_of_halving_has_the_cost_of_each_round(opsd: Opsd) -> None:
    words = "compare --vary divergence.kind=jsd,forward_kl --vary train.passes=2 --grid --halving"
    code, out, err = opsd(f"{words} --halving-fraction 0.6 --seeds 2 --dry-run --json")
    assert code == 0, err
    found = json.loads(out)
    halving, cost = found["halving"], found["halving"]["cost_at_most"]
    assert halving["base"] == "opsd" and halving["fraction"] == 0.6
    assert [each["arms"] for each in cost["rounds"]] == [3, 2]
    assert [each["runs"] for each in cost["rounds"]] == [3, 4]
    assert sum(each["generated"] for each in cost["rounds"]) == cost["generated"]
    one = found["plan"]["opsd"]["generated_tokens_at_most"]
    assert cost["full_generated"] == 6 * one and 0 < cost["saving"] < 1
    code, out, _ = opsd(f"{words} --seeds 2 --dry-run")
    assert code == 0 and "last, all seeds" in out and "% less" in out


def test_vary_trains_the_arms_and_resume_goes_on_with_them(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("opsd_cli.reports.comparison_pages.page_samples", lambda *_: {})
    # The runs are processes of their own, in which the backend is the real one.
    words = f"compare --vary divergence.kind=jsd --seeds 1 --out c --backend cpu --json {SMALL}"
    code, out, err = opsd(words)
    assert code == 0, err
    assert "2 runs: at most" in err
    summary = json.loads(out)
    arms = summary["choices"]["arms"]
    assert list(arms) == list(summary["methods"]) == ["opsd", "opsd divergence.kind=jsd"]
    assert arms["opsd divergence.kind=jsd"]["watch_change"] is not None
    assert (tmp_path / "c" / "opsd+divergence.kind=jsd-s0" / "result.json").is_file()
    assert "Which choice helped" in (tmp_path / "c" / "report.html").read_text()
    plan = read_plan(tmp_path / "c")
    assert plan["variation"]["base"] == "opsd"
    (tmp_path / "c" / "comparison.json").unlink()
    code, out, err = opsd("compare --resume --out c --json")
    assert code == 0, err
    assert json.loads(out)["choices"] == summary["choices"]


def test_vary_result_fits_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from opsd_cli.cli.compare_output import CHOSEN, show
    from opsd_cli.cli.console import Output

    groups, variation = varied_runs(tmp_path, [0, 1])
    summary = summarise(groups, tmp_path, variation=variation, replicates=20)
    show(Comparison(summary, groups, tmp_path), Output())
    out = capsys.readouterr().out
    assert "against the base" in out and "helped" in out and "four times in five" in out
    assert "opsd (divergence.kind=forward_kl)" in out and CHOSEN in out
