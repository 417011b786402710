"""The shared loop on each real backend: stopped and resumed, a run ends as if never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from safetensors.numpy import load_file

from backends.interface import Backend
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import Interrupted, PreflightFailed
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.grading import Grade, Grader, Item
from opsd_cli.interruption import never
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.rendering import ESCAPE, after_thinking
from opsd_cli.tracking.listener import StepRow
from opsd_cli.training import run_directory
from opsd_cli.training.result import TrainResult
from opsd_cli.training.run_directory import Run, best_checkpoint
from opsd_cli.training.trainer import train
from tests.support.backend_fixtures import LORA
from tests.support.fakes import StopAfter

STEPS = 6


def problem_set(name: str, numbers: range) -> ProblemSet:
    problems = tuple(
        Problem(f"{name}-{n}", f"{n} + 1", f"{n} + 1 = {n + 1}", str(n + 1), name) for n in numbers
    )
    return ProblemSet(name, problems, LoadReport(rows=len(problems), used=len(problems)))


SPLITS = Splits(
    problem_set("train", range(10)),
    problem_set("validation", range(10, 14)),
    problem_set("test", range(20, 24)),
)


@pytest.fixture
def start(
    backend: Backend, model_folder: Callable[[str], Path], tmp_path: Path
) -> Callable[..., TrainResult]:
    """Run `train` in a directory, or resume the run that is there."""

    def start(name: str, stop: StopAfter | None = None, **sections: Any) -> TrainResult:
        directory = tmp_path / name
        if (directory / run_directory.CONFIG).exists():
            run = Run.resume(directory)
        else:
            tree: dict[str, Any] = {
                "model": str(model_folder("qwen3")),
                "backend": backend.name,
                "seed": 3,
                "prompts": {
                    "student": {"template": "{question}"},
                    "teacher": {"template": "{solution} {question}"},
                },
                "lora": LORA | {"dropout": 0.2},
                "teacher": {"weights": "ema", "ema_decay": 0.5},
                "sampling": {"max_new_tokens": 6},
                "optimizer": {"learning_rate": 0.05, "max_grad_norm": 1.0, "schedule": "linear"},
                "train": {
                    "steps": STEPS,
                    "questions_per_step": 3,
                    "evaluate_every": 2,
                    "checkpoint_every": 2,
                    "patience": None,
                },
                "preflight": {"enabled": False},
            }
            run = Run.create(directory, resolve(None, (), {**tree, **sections}), {})
        with run:
            policy = backend.load(run.config, trainable=True)
            return train(policy, SPLITS, run, stop, stop or never)

    return start


def files(directory: Path) -> dict[str, Any]:
    """What a run ended with, times left out."""
    last = max((directory / "checkpoints").glob("step-*"))
    tensors = {
        f"{name}/{key}": value.tobytes()
        for name in ("adapter_model.safetensors", "optimizer.safetensors")
        for key, value in load_file(last / name).items()
    }
    timeless = ("seconds", "cpu_seconds", "tokens_per_second", "memory_peak")
    logs = [
        [{k: v for k, v in row.items() if k not in timeless} for row in read_rows(path)]
        for path in (directory / name for name in (run_directory.METRICS, run_directory.ROLLOUTS))
    ]
    return {"step": last.name, "tensors": tensors, "logs": logs}


@pytest.mark.parametrize("stopped_at", [1, 3, 4])
def test_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    start: Callable[..., TrainResult], tmp_path: Path, stopped_at: int
) -> None:
    whole = start("whole")
    with pytest.raises(Interrupted) as caught:
        start("stopped", stop=StopAfter(stopped_at))
    assert f"after step {stopped_at} of {STEPS}" in caught.value.message
    resumed = start("stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert resumed.tokens == whole.tokens
    assert resumed.accuracy == whole.accuracy
    assert resumed.best_step == whole.best_step


def test_killed_run_resumes_from_its_last_checkpoint(
    start: Callable[..., TrainResult], tmp_path: Path
) -> None:
    start("whole")

    class Killed(StopAfter):
        def step(self, row: StepRow) -> None:
            super().step(row)
            if self():  # dies after step 3, unsaved
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start("killed", stop=Killed(3))
    assert max((tmp_path / "killed" / "checkpoints").iterdir()).name == "step-000002"
    start("killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_run_directory_holds_the_promised_files(
    start: Callable[..., TrainResult], tmp_path: Path
) -> None:
    result = start("run")
    directory = tmp_path / "run"
    rows = list(read_rows(directory / run_directory.METRICS))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for key in (
        "loss", "grad_norm", "learning_rate", "reward", "divergence", "entropy", "clipped",
        "completion_tokens", "stopped", "truncated", "hedges_per_100_words", "copied",
        "divergence_by_class", "ledger", "memory_peak",
    ):  # fmt: skip
        assert key in rows[0], key
    rollouts = list(read_rows(directory / run_directory.ROLLOUTS))
    assert len(rollouts) == STEPS * 3 == result.tokens.rollouts
    assert sum(row["tokens"] for row in rollouts) == result.tokens.generated
    splits = {row["split"] for row in read_rows(directory / run_directory.EVALUATIONS)}
    assert splits == {"validation", "test"}
    best = best_checkpoint(directory)
    assert best is not None and best.name == f"step-{result.best_step:06d}"
    assert json.loads((directory / run_directory.RESULT).read_text()) == json.loads(
        json.dumps(result.as_dict())
    )


def test_early_stop_by_patience(start: Callable[..., TrainResult]) -> None:
    """A random model is never right, so no validation is better than the first."""
    train_section = {
        "steps": STEPS, "questions_per_step": 3, "evaluate_every": 1, "patience": 2,
    }  # fmt: skip
    result = start("run", train=train_section)
    assert result.steps == 2
    assert result.best_step == 0
    assert "had not improved" in result.stopped_because


def test_preflight_stops_a_run_whose_reference_does_not_help(
    start: Callable[..., TrainResult], tmp_path: Path
) -> None:
    with pytest.raises(PreflightFailed, match="too few problems to tell") as caught:
        start("run", preflight={"enabled": True, "problems": 2})
    assert "preflight.enabled=false" in caught.value.hint
    assert not (tmp_path / "run").exists()


class EveryOther(Grader):
    """Grades by the completion alone: about half of a random model's are right."""

    def __init__(self, *settings: Any) -> None:
        pass

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        odd = [crc32(item.completion.encode()) % 2 for item in items]
        return [Grade("wrong" if each else "correct") for each in odd]


@pytest.mark.parametrize("method", ["opsd", "hybrid"])
def test_the_teacher_reads_siblings_and_a_resumed_run_the_same_ones(
    start: Callable[..., TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr("opsd_cli.training.trainer.open_grader", EveryOther)
    sections = {
        "method": method,
        "teacher": {"reference": "sibling", "weights": "live"},
        "rollouts": {"per_question": 3},
    }
    result = start("whole", **sections)
    assert result.tokens.teacher_scored > 0 and result.tokens.trained > 0
    rollouts = list(read_rows(tmp_path / "whole" / run_directory.ROLLOUTS))
    read = [row for row in rollouts if row.get("teacher_prompt")]
    assert 0 < len(read) < len(rollouts) == STEPS * 3 * 3
    for row in read:
        right = [
            after_thinking(other["completion"]) for other in rollouts
            if (other["step"], other["problem_id"]) == (row["step"], row["problem_id"])
            and other["correct"] and other["sample_index"] != row["sample_index"]
        ]  # fmt: skip
        prompt = row["teacher_prompt"].replace(ESCAPE, "")
        assert any(text in prompt for text in right), (prompt, right)
    with pytest.raises(Interrupted):
        start("stopped", stop=StopAfter(3), **sections)
    start("stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


#: A user's grader: about half of a random model's completions violate a rule of their own.
RULES = """
from zlib import crc32

def score(problem, completion):
    digest = crc32(completion.encode())
    return (False, f"rule {digest} is violated") if digest % 2 else True
"""


@pytest.mark.parametrize("method", ["opsd", "hybrid"])
def test_the_teacher_reads_what_a_function_said_of_each_rollout(
    start: Callable[..., TrainResult], tmp_path: Path, method: str
) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    sections = {
        "method": method,
        "teacher": {"reference": "feedback", "weights": "live"},
        "rollouts": {"per_question": 2},
        "grading": {"grader": f"{tmp_path / 'rules.py'}:score"},
        "train": {"steps": 1, "questions_per_step": 3, "checkpoint_every": 1},
    }
    result = start("run", **sections)
    assert result.tokens.teacher_scored > 0 and result.tokens.trained > 0
    rollouts = list(read_rows(tmp_path / "run" / run_directory.ROLLOUTS))
    read = [row for row in rollouts if "teacher_prompt" in row]  # hybrid reads mixed groups alone
    wrong = [row for row in read if not row["correct"]]
    assert 0 < len(wrong) < len(read) <= len(rollouts)
    for row in read:
        assert row["correct"] == ("feedback" not in row) == (row["teacher_prompt"] is None)
        assert row["correct"] or f"{row['feedback']} " in row["teacher_prompt"]
    (metrics,) = read_rows(tmp_path / "run" / run_directory.METRICS)
    right = (len(read) - len(wrong)) / len(read)
    assert metrics["feedback_missing"] == metrics["rollouts_skipped"] == pytest.approx(right)


def test_the_teacher_reads_the_answer_alone(
    start: Callable[..., TrainResult], tmp_path: Path
) -> None:
    start("answer", teacher={"reference": "answer"})
    start("solution", teacher={"reference": "solution"})
    first, second = (
        next(iter(read_rows(tmp_path / name / run_directory.ROLLOUTS)))
        for name in ("answer", "solution")
    )
    assert first["completion"] == second["completion"]
    assert first["divergence"] != second["divergence"]
    problem = next(p for p in SPLITS.train.problems if p.id == first["problem_id"])
    assert f"{problem.answer} {problem.question}" in first["teacher_prompt"]
    assert f"{problem.solution} {problem.question}" in second["teacher_prompt"]
