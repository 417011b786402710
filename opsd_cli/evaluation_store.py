"""An evaluation directory: samples appended as they are graded, so that a kill loses little.

    evaluation.json  samples.jsonl  results.json

`evaluation.json` says what was measured: model, adapter, problems, prompts and sampling. Samples of
one such description are never mixed with another's. Raising the number of samples a problem is not
another description: the new ones are drawn and the old ones kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from opsd_cli.errors import RunError
from opsd_cli.evaluation import Sample
from opsd_cli.grading import Grader
from opsd_cli.problems import Problem
from opsd_cli.runs import read_rows, refuse_used, write_whole

DESCRIPTION = "evaluation.json"
SAMPLES = "samples.jsonl"
RESULTS = "results.json"
_FIELDS = {field.name for field in fields(Sample)}


class EvaluationDirectory:
    """Where one evaluation keeps its samples, a benchmark's name on each line."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def create(cls, directory: Path, description: Mapping[str, Any]) -> EvaluationDirectory:
        """A new one; raises `RunError` where the directory is used or cannot be written."""
        refuse_used(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / DESCRIPTION, json.dumps(description, indent=1) + "\n")
        except OSError as error:
            raise RunError(
                f"cannot write to {directory}: {error.strerror}", "give another --out DIR"
            ) from error
        return cls(directory)

    @classmethod
    def resume(
        cls, directory: Path, description: Mapping[str, Any] | None = None
    ) -> EvaluationDirectory:
        """An existing one, which must have been described alike.

        Raises:
            RunError: there is none, or its description differs; the message names what does.
        """
        path = directory / DESCRIPTION
        if not path.is_file():
            raise RunError(
                f"{directory} is not an evaluation: it has no {DESCRIPTION}",
                "give --out the directory of the evaluation to go on with",
            )
        then = json.loads(path.read_text(encoding="utf-8"))
        now = then if description is None else json.loads(json.dumps(description))
        changed = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
        if changed:
            raise RunError(
                f"{directory} was made with other settings: {', '.join(changed)}",
                "repeat the settings in its evaluation.json, or give another --out",
            )
        store = cls(directory)
        store._drop_torn_line()
        return store

    @property
    def description(self) -> dict[str, Any]:
        """What was measured."""
        return json.loads((self.directory / DESCRIPTION).read_text(encoding="utf-8"))

    def samples(self, benchmark: str) -> tuple[Sample, ...]:
        """The samples of a benchmark so far, in the order they were graded."""
        return tuple(
            Sample(**{key: value for key, value in row.items() if key in _FIELDS})
            for row in read_rows(self.directory / SAMPLES)
            if row["benchmark"] == benchmark
        )

    def append(self, benchmark: str, sample: Sample) -> None:
        """Add one sample."""
        with (self.directory / SAMPLES).open("a", encoding="utf-8") as out:
            out.write(_line(benchmark, sample))

    def regrade(self, problems: Mapping[str, Sequence[Problem]], grader: Grader) -> tuple[int, int]:
        """Grade every stored sample of the given problems again.

        Returns how many changed, and how many there are. `samples.jsonl` is replaced whole or not
        at all, and a sample of a problem that is not given is an error, not dropped.

        Raises:
            RunError: there are samples of other problems or benchmarks.
        """
        known = {(name, problem.id) for name, members in problems.items() for problem in members}
        for row in read_rows(self.directory / SAMPLES):
            if (row["benchmark"], row["problem_id"]) not in known:
                raise RunError(
                    f"{self.directory} holds samples of {row['benchmark']}, problem "
                    f"{row['problem_id']!r}, which is not among the problems given",
                    "name the same --benchmark as when it was made, without --limit",
                )
        changed = 0
        lines: list[tuple[str, Sample]] = []
        for benchmark, members in problems.items():
            golds = {problem.id: problem.answer or "" for problem in members}
            stored = self.samples(benchmark)
            grades = grader.grade_many([(golds[s.problem_id], s.completion) for s in stored])
            for sample, grade in zip(stored, grades, strict=True):
                now = replace(
                    sample, answer=grade.answer, status=grade.status, correct=grade.correct
                )
                changed += now != sample
                lines.append((benchmark, now))
        write_whole(self.directory / SAMPLES, "".join(_line(*line) for line in lines))
        return changed, len(lines)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replace `results.json`."""
        write_whole(self.directory / RESULTS, json.dumps(results, indent=1) + "\n")

    def _drop_torn_line(self) -> None:
        path = self.directory / SAMPLES
        if path.exists():
            text = path.read_text(encoding="utf-8")
            if text and not text.endswith("\n"):
                write_whole(path, text[: text.rfind("\n") + 1])


def _line(benchmark: str, sample: Sample) -> str:
    return json.dumps({"benchmark": benchmark, **sample.as_dict()}, ensure_ascii=False) + "\n"
