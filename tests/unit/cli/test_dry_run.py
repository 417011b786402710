"""`--dry-run`: what precedes the first step, the time with `--probe`, and an untrained adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.interface import Capability
from opsd_cli import hub, load_config
from opsd_cli.comparison.jobs import plan_of, write_plan
from opsd_cli.methods import METHODS
from tests.support.cli import NOT_AT_HAND, QUICK, Opsd
from tests.support.fake_vllm import interpreter
from tests.support.fakes import FakeBackend


def test_dry_run_says_what_precedes_step_1(opsd: Opsd) -> None:
    asked = "--set preflight.problems=4 --set data.validation_problems=5 --set data.test_problems=6"
    code, out, _ = opsd(f"train --dry-run {asked}")
    assert code == 0 and "19 rollouts precede step 1, up to 51 if" in out
    most = json.loads(opsd(f"train --dry-run --json {asked}")[1])["plan"]
    assert most["rollouts_before_step_1_at_most"] == 51
    found = json.loads(opsd(f"train --dry-run --json {asked} --set preflight.enabled=false")[1])
    assert found["plan"]["rollouts_before_step_1"] == 11 and "seconds" not in found


@pytest.mark.parametrize(
    ("settings", "servers"),
    [
        ("url=http://a:1", "1 vLLM server at http://a:1"),
        ("url=http://a:1,http://b:1", "2 vLLM servers at http://a:1, http://b:1"),
        ("replicas=2", "2 vLLM servers started here, on the GPUs that the trainer sees"),
        ("replicas=2 devices=[4,5,6,7]", "2 vLLM servers started here, on the GPUs 4,5 and 6,7"),
    ],
)
def test_dry_run_names_the_vllm_servers(
    opsd: Opsd, tmp_path: Path, settings: str, servers: str
) -> None:
    python = interpreter(tmp_path / "vllm")
    given = f"python={python} {settings}".split()
    plan = "train --dry-run --set rollouts.engine=vllm " + " ".join(
        f"--set rollouts.vllm.{each}" for each in given
    )
    code, out, err = opsd(plan)
    assert code == 0 and f"sampled by {servers}\n" in out, err
    assert json.loads(opsd(f"{plan} --json")[1])["servers"] == servers
    assert "sampled by" not in opsd("train --dry-run")[1]


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


def test_dry_run_warns_of_a_student_that_thinks(opsd: Opsd) -> None:
    plan = f"train --dry-run --set data.train=good.jsonl {QUICK}"
    on = "--set prompts.student.chat_arguments.enable_thinking=true"
    code, _, err = opsd(f"{plan} {on}")
    assert code == 0 and "the student thinks" in err
    assert "the student thinks" not in opsd(plan)[2]


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


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_dry_run_of_resume_shows_what_is_left_and_changes_nothing(
    opsd: Opsd, tmp_path: Path
) -> None:
    every = "--set train.checkpoint_every=2 --set train.keep_checkpoints=9"
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK} {every}")[0] == 0
    before = files_of(tmp_path)
    for flags, left, finished in (
        ("--resume", 0, True),
        ("--resume-from 2", 2, False),
        ("--resume --steps 7", 3, False),
    ):
        code, out, err = opsd(f"train {flags} --dry-run --json --out run")
        assert code == 0, err
        found = json.loads(out)["resume"]
        assert (found["steps_left"], found["finished"]) == (left, finished), flags
        assert (found["generated_tokens_at_most"] > 0) == (found["rollouts"] > 0) == (left > 0)
    code, out, _ = opsd("train --resume-from 2 --dry-run --out run")
    assert "would go on from the checkpoint of step 2: 2 of 4 steps are left" in out
    assert "with 1 validation\n" in out and "nothing was written" in out
    for flags, says in (
        ("--resume --steps 3", "has finished its 4 steps"),
        ("--resume-from 1", "no checkpoint of step 1"),
        ("--resume --probe", "--probe estimates the time of a new run"),
    ):
        code, _, err = opsd(f"train {flags} --dry-run --out run")
        assert code == 2 and says in err, flags
    assert files_of(tmp_path) == before


def test_dry_run_of_a_resumed_evaluation_counts_what_is_kept(opsd: Opsd, tmp_path: Path) -> None:
    made = "eval --benchmark good.jsonl --samples 2 --set evaluation.max_new_tokens=8 --out e"
    assert opsd(made)[0] == 0
    before = files_of(tmp_path)
    code, out, err = opsd("eval --resume --dry-run --json --out e --samples 3")
    assert code == 0, err
    plan = json.loads(out)["plan"]["good.jsonl"]
    assert plan["completions_kept"] == 2 * plan["problems"] > 0
    assert plan["generated_tokens_at_most"] == plan["problems"] * 8
    code, _, err = opsd("eval --resume --dry-run --out e --set evaluation.temperature=0.123")
    assert code == 2 and "was made with other settings" in err
    assert files_of(tmp_path) == before


def test_dry_run_of_a_resumed_comparison_shows_its_runs(opsd: Opsd, tmp_path: Path) -> None:
    configs = {name: load_config(method=name, backend="cpu") for name in ("opsd", "sft")}
    write_plan(Path("c"), plan_of(configs, [0, 1], False, None))
    before = files_of(tmp_path)
    code, out, err = opsd("compare --resume --dry-run --json --out c")
    assert code == 0, err
    found = json.loads(out)
    assert found["runs_left"] == 4
    assert found["runs"]["sft-s1"] == {
        "state": "waiting", "step": 0, "steps": configs["sft"].train.steps,
    }  # fmt: skip
    code, out, _ = opsd("compare --resume --dry-run --out c")
    assert "4 of 4 runs are left; nothing was written" in out
    code, _, err = opsd("compare a b --dry-run")
    assert code == 2 and "finished runs are compared as they are" in err
    assert files_of(tmp_path) == before


def test_dry_run_shows_the_plan_before_the_settings_that_differ(opsd: Opsd) -> None:
    code, out, _ = opsd("train --dry-run --steps 9 --set train.evaluate_every=3")
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("problems: ") and lines[-1] == "nothing was written"
    settings = lines[
        lines.index("settings that differ from the defaults (--show-config lists all):") :
    ]
    assert "optimizer.max_grad_norm" in out and "lora.dropout" not in out
    origins = {line.split()[0]: line for line in settings[1:-1]}
    assert origins["train.steps"].endswith("  a flag")
    assert origins["train.evaluate_every"].endswith("  --set")
    assert origins["train.questions_per_step"].endswith("  preset embedded")
    assert max(map(len, settings)) <= 80


def test_dry_run_shows_the_whole_config_on_request(opsd: Opsd) -> None:
    code, out, _ = opsd("train --dry-run --show-config")
    assert code == 0 and out.startswith("problems: ")
    assert "the whole config:\n" in out and "  dropout: 0.0\n" in out
    code, _, err = opsd("train --show-config")
    assert code == 2 and "give it with --dry-run" in err


def test_dry_run_divides_a_machine_s_memory_among_its_processes(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = json.loads(opsd("train --dry-run --json")[1])["memory"]["peak"]
    monkeypatch.setattr(
        FakeBackend, "capability", lambda _: Capability(True, "a processor", memory=7 * peak)
    )
    assert "  fits in " in opsd("train --dry-run --devices 4")[1]
    code, out, _ = opsd("train --dry-run --devices 8")
    assert code == 0 and "does not fit in" in out
    assert "  8 processes share this machine's memory: " in out
    memory = json.loads(opsd("train --dry-run --devices 8 --json")[1])["memory"]
    assert (memory["limit"], memory["sharing"]) == (7 * peak // 8, 8)
