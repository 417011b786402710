"""`--dry-run`: what precedes the first step, the time with `--probe`, and an untrained adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli import hub
from opsd_cli.methods import METHODS
from tests.support.cli import NOT_AT_HAND, QUICK, Opsd


def test_dry_run_says_what_precedes_step_1(opsd: Opsd) -> None:
    asked = "--set preflight.problems=4 --set data.validation_problems=5 --set data.test_problems=6"
    code, out, _ = opsd(f"train --dry-run {asked}")
    assert code == 0 and "19 of the evaluation's rollouts precede step 1" in out
    found = json.loads(opsd(f"train --dry-run --json {asked} --set preflight.enabled=false")[1])
    assert found["plan"]["rollouts_before_step_1"] == 11 and "seconds" not in found


@pytest.mark.parametrize("method", list(METHODS))
def test_dry_run_probe_estimates_the_time(opsd: Opsd, tmp_path: Path, method: str) -> None:
    plan = f"train --dry-run --probe --method {method} --set data.train=good.jsonl {QUICK}"
    code, out, err = opsd(f"{plan} --json")
    assert code == 0, err
    seconds = json.loads(out)["seconds"]
    assert seconds["run"] >= seconds["evaluations"] >= seconds["before_step_1"] > 0
    assert seconds["step"]["gradient"] > 0
    assert (seconds["step"]["rollouts"] > 0) == (method != "sft")
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]
    code, out, _ = opsd(plan)
    assert code == 0 and "\n  the whole run " in out and "nothing was written" in out


def test_dry_run_of_eval_warns_of_an_untrained_adapter(opsd: Opsd) -> None:
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK}")[0] == 0
    state = next(Path("run/checkpoints").glob("step-000004/state.json"))
    best = json.loads(state.read_text())["best_step"]
    code, _, err = opsd("eval --dry-run --adapter run --benchmark good.jsonl")
    assert code == 0, err
    assert ("holds the untrained weights" in err) == (best == 0)


def test_dry_run_of_an_unreached_model_has_no_memory_plan_but_a_warning(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = "train --dry-run --set data.train=good.jsonl --model some/model"
    code, out, err = opsd(plan)
    assert code == 2 and f"memory: not known: the model some/model {NOT_AT_HAND}" in out
    assert f"error: the model some/model {NOT_AT_HAND}" in err
    monkeypatch.setattr(hub, "_unreachable", True)  # a network that could not be reached
    code, out, err = opsd(plan)
    assert code == 0 and "memory: not known: the model some/model" in out
    assert "warning: planned without the model, and the run would stop: the model some/model" in err
