"""Learning curves of finished runs: test accuracy against cumulative cost.

Two runs are comparable if they agree in base model, test problems and their order, student prompt,
evaluation sampling and grader; method, seed and settings may differ. A run that does not agree with
the majority is left out, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsd_cli.config.resolve import validate
from opsd_cli.config.schema import Config
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.errors import DataError, RunError
from opsd_cli.evaluation.evaluate import evaluation_view
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory

#: Kinds of cost, with their names in reports, in the order in which these show them.
COSTS = {
    "generated": "tokens generated",
    "generated_and_scored": "tokens generated or scored by the teacher",
    "all": "all tokens (generated, prompts, scored, trained)",
    "cpu_seconds": "CPU seconds of training",
    "flops": "estimated FLOPs per parameter",
}


def cost_of(ledger: Mapping[str, int], cpu_seconds: float) -> dict[str, float]:
    """Every cost in `COSTS` of a token ledger.

    FLOPs per parameter are estimated as 2 per token of a forward pass and 4 per trained token: the
    backward pass through frozen weights computes gradients of activations only.
    """
    scored = ledger["teacher_scored"] + ledger.get("scored", 0)
    read = ledger["generated"] + ledger["prompt"] + scored
    return {
        "generated": ledger["generated"],
        "generated_and_scored": ledger["generated"] + scored,
        "all": read + ledger["trained"],
        "cpu_seconds": cpu_seconds,
        "flops": 2 * read + 4 * ledger["trained"],
    }


@dataclass(frozen=True)
class Curve:
    """One run's learning curve: E evaluations of the same P test problems.

    Attributes:
        label: name of the group that the run belongs to, usually its method.
        steps: step of each evaluation, increasing.
        cost_E: cumulative cost at each evaluation, by the names of `COSTS`.
        correct_EP: each problem's share of right samples, within [0, 1].
        basis: values that must be equal for two curves to be comparable, by name.
        config: the run's resolved config.
        result: contents of its result.json.
    """

    label: str
    method: str
    seed: int
    directory: Path
    steps: tuple[int, ...]
    cost_E: dict[str, np.ndarray]
    correct_EP: np.ndarray
    basis: Mapping[str, Any]
    config: Config
    result: Mapping[str, Any]

    @property
    def accuracy_E(self) -> np.ndarray:
        """Accuracy at each evaluation: the mean over problems."""
        return np.asarray(self.correct_EP.mean(axis=1))


def read_curve(directory: Path, label: str | None = None) -> Curve:
    """The learning curve of a finished run.

    Args:
        label: name of its group; by default its method.

    Raises:
        RunError: the directory is not a run, or the run has not finished.
        DataError: an earlier version made the run, without the rows that a comparison needs; or
            nothing was graded in it.
    """
    if not (directory / run_directory.CONFIG).is_file():
        raise RunError(
            f"{directory} is not a run: it has no {run_directory.CONFIG}", "name run directories"
        )
    result = run_directory.result_of(directory)
    if result is None:
        there = (directory / run_directory.RESULT).exists()
        raise RunError(
            f"{run_directory.RESULT} in {directory} is damaged"
            if there
            else f"the run in {directory} has not finished",
            f"{'make it anew' if there else 'go on with it'}: "
            f"opsd train --resume --out {directory}",
        )
    config = validate(read_tree(directory / run_directory.CONFIG))
    environment = read_object(directory / run_directory.ENVIRONMENT) or {}
    rows = {r["step"]: r for r in read_rows(directory / run_directory.EVALUATIONS)
            if r["split"] == "test"}  # fmt: skip
    ordered = [rows[step] for step in sorted(rows)]
    if any(row["accuracy"] is None for row in ordered):
        raise DataError(
            f"the run in {directory} has no accuracy to compare: nothing was graded in it",
            "leave it out; its result.json has what was measured, and docs/graders.md says what "
            "of it compares",
        )
    if not ordered or any("correct" not in row or "ledger" not in row for row in ordered):
        raise DataError(
            f"the run in {directory} was made by an earlier version, without what a comparison "
            "needs",
            "train it again",
        )
    costs = [cost_of(row["ledger"], row["training_cpu_seconds"]) for row in ordered]
    return Curve(
        label=label or result["method"],
        method=result["method"],
        seed=config.seed,
        directory=directory,
        steps=tuple(row["step"] for row in ordered),
        cost_E={name: np.array([cost[name] for cost in costs], np.float64) for name in COSTS},
        correct_EP=np.array([row["correct"] for row in ordered], np.float64),
        basis=basis_of(config, environment, ordered[0]["problems"]),
        config=config,
        result=result,
    )


def basis_of(config: Config, environment: Mapping[str, Any], problems: str) -> dict[str, Any]:
    """The values that must be equal for two runs to be comparable, by a name for people."""
    evaluation = config.evaluation.model_dump(mode="json", exclude={"thinking", "template"})
    evaluation["max_new_tokens"] = (
        config.evaluation.max_new_tokens or config.sampling.max_new_tokens
    )
    return {
        "test problems": problems,
        "base model": [config.model, config.revision, config.adapter],
        # The prompt of evaluations; methods may train on others.
        "student prompt": evaluation_view(config).prompts.student.model_dump(mode="json"),
        "evaluation sampling": evaluation,
        "grader": [
            environment.get("packages", {}).get("math-verify"),
            config.grading.model_dump(mode="json"),
            *filter(None, [environment.get("grader_files")]),
        ],
    }


def comparable(curves: Sequence[Curve]) -> tuple[list[Curve], dict[str, str]]:
    """The curves with the most frequent basis; and for each other directory, how it differs."""
    keys = [json.dumps(curve.basis, sort_keys=True) for curve in curves]
    usual = max(keys, key=keys.count)
    reference = curves[keys.index(usual)]
    kept, left = [], {}
    for curve, key in zip(curves, keys, strict=True):
        if key == usual:
            kept.append(curve)
        else:
            differs = [n for n, value in curve.basis.items() if value != reference.basis[n]]
            left[str(curve.directory)] = f"another {' and another '.join(differs)}"
    return kept, left


def labelled(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves grouped by a unique label; within a group only the seed differs.

    Runs of one method with different settings are labelled with the settings that differ, and runs
    of equal method, settings and seed with their directory's name.
    """
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        alike = [other for other in curves if other.label == curve.label]
        label = curve.label + _difference(curve, alike)
        if any(other.seed == curve.seed for other in groups.get(label, ())):
            label = f"{label} ({curve.directory.name})"
        groups.setdefault(label, []).append(curve)
    return {label: sorted(group, key=lambda c: c.seed) for label, group in groups.items()}


def _difference(curve: Curve, alike: Sequence[Curve]) -> str:
    """The settings in which runs of one label differ, as in " (per_question 8, passes 4)"."""
    settings = [_settings(other.config) for other in alike]
    mine = _settings(curve.config)
    varied = [key for key in mine if any(other[key] != mine[key] for other in settings)]
    told = ", ".join(f"{key.rpartition('.')[2]} {mine[key]}" for key in varied)
    return f" ({told})" if told else ""


def _settings(config: Config) -> dict[str, Any]:
    """All settings but seed and backend, by dotted key."""
    flat: dict[str, Any] = {}

    def walk(tree: Mapping[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict) and value and key != "chat_arguments":
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk(config.model_dump(exclude={"seed", "backend"}), "")
    return flat
