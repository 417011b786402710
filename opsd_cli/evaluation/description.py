"""`evaluation.json`: what was measured, which decides whether samples may be added to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling, evaluation_view
from opsd_cli.problems import ProblemSet


def describe(
    config: Config,
    sets: Mapping[str, ProblemSet],
    sampling_from: str,
    limit: int | None,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What must agree for two groups of samples to be one evaluation, and, last, the extent.

    Args:
        weights: the model's `commit` and the `adapter_digest`; by default read from the files.
    """
    if weights is None:
        from backends.shared.model_files import commit_of, digest_of_adapter

        weights = {
            "commit": commit_of(config),
            "adapter_digest": digest_of_adapter(config.adapter),
        }
    return {
        "model": config.model,
        "revision": config.revision,
        "commit": weights["commit"],
        "adapter": config.adapter,
        "adapter_digest": weights["adapter_digest"],
        "backend": config.backend,
        "dtype": config.train.dtype,
        "seed": config.seed,
        "student_prompt": evaluation_view(config).prompts.student.model_dump(mode="json"),
        "sampling": _sampling(config),
        "sampling_from": sampling_from,
        "grader": config.grading.grader,
        "sets": {
            name: {"revision": problems.revision, "prompt": problems.prompt}
            for name, problems in sets.items()
        },
        "benchmarks": list(sets),
        "limit": limit,
        "samples": config.evaluation.samples,
    }


def _sampling(config: Config) -> dict[str, Any]:
    """The sampling; without stop strings the key is left out, as in earlier versions."""
    sampling = asdict(evaluation_sampling(config))
    return {key: value for key, value in sampling.items() if key != "stop" or value}
