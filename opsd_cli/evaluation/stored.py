"""An evaluation that was made before, finished or not, from its directory: for its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsd_cli.config.resolve import validate
from opsd_cli.config.schema import Config
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.evaluation.directory import EvaluationDirectory
from opsd_cli.evaluation.samples import Evaluation, assemble, with_likelihood
from opsd_cli.grading import open_grader


@dataclass(frozen=True)
class StoredEvaluation:
    """What a directory holds.

    Attributes:
        results: benchmark -> its evaluation, of the problems that have all of their samples.
        graded: benchmark -> (samples there are, samples there should be).
        summary: contents of results.json; without one, no benchmark.
    """

    results: dict[str, Evaluation]
    graded: dict[str, tuple[int, int]]
    summary: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether every sample is there."""
        return all(there == wanted for there, wanted in self.graded.values())


def stored_evaluation(directory: EvaluationDirectory) -> StoredEvaluation:
    """Read an evaluation; nothing is sampled or graded again, and nothing written.

    Raises:
        RunError: a file is damaged.
    """
    directory.require_extent()
    description, questions = directory.description, directory.problems()
    k = int(description["samples"])
    config = directory.config_file
    grading = (validate(read_tree(config)) if config is not None else Config()).grading
    results, graded = {}, {}
    summary = directory.summary or {"benchmarks": {}}
    with open_grader(grading) as grader:
        for name in description["benchmarks"]:
            ids = list(questions.get(name, ()))
            known = set(ids)
            samples = [
                sample
                for sample in directory.samples(name)
                if sample.sample_index < k and sample.problem_id in known
            ]
            there = Counter(sample.problem_id for sample in samples)
            graded[name] = (len(samples), len(ids) * k)
            whole = [problem_id for problem_id in ids if there[problem_id] == k]
            if whole:
                found = assemble(name, whole, samples, k).with_votes(grader)
                results[name] = with_likelihood(found, summary)
    return StoredEvaluation(results, graded, summary)
