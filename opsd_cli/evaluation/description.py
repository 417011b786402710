"""`evaluation.json`: what was measured, which decides whether samples may be added to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling, evaluation_view
from opsd_cli.grading import described
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.few_shot import digest, examples_of

#: Keys of the description that are not plain words, as people read them.
SETTING_NAMES = {
    "commit": "the model's commit",
    "adapter_digest": "the adapter's weights (SHA-256)",
    "few_shot": "the few-shot examples",
    "grading": "what the grader reads (its settings, or the file of a function)",
    "student_prompt": "student's prompt",
    "sampling_from": "where the sampling settings are from",
    "sets": "benchmarks' commits and prompts",
    "limit": "problems of each benchmark at most",
    "samples": "samples a problem",
    "dtype": "number format",
}


#: Keys that say how samples were graded: what regrading may change.
GRADER_KEYS = ("grader", "grading")


def setting_name(key: str) -> str:
    """A key of the description as people read it."""
    return SETTING_NAMES.get(key, key.replace("_", " "))


def describe(
    config: Config,
    sets: Mapping[str, ProblemSet],
    sampling_from: str,
    limit: int | None,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What must agree for two groups of samples to be one evaluation, and, last, the extent.

    Args:
        weights: the model's `commit`, the `adapter_digest` and the `few_shot` examples; by default
            read from the files.
    """
    if weights is None:
        from backends.shared.model_files import commit_of, digest_of_adapter

        weights = {
            "commit": commit_of(config),
            "adapter_digest": digest_of_adapter(config.adapter),
            "few_shot": _few_shot(config),
        }
    found = {
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
        **described(config.grading),
        "sets": {
            name: {"revision": problems.revision, "prompt": problems.prompt}
            for name, problems in sets.items()
        },
        "benchmarks": list(sets),
        "limit": limit,
        "samples": config.evaluation.samples,
    }
    # Without worked examples the key is left out, as in earlier versions.
    few_shot = weights.get("few_shot")
    return found | ({"few_shot": few_shot} if few_shot else {})


def with_grader(description: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A description with the grader of another, in the same place."""
    now = {key: other[key] for key in GRADER_KEYS if key in other}
    found: dict[str, Any] = {}
    for key, value in description.items():
        if key == "grader":
            found |= now
        elif key not in GRADER_KEYS:
            found[key] = value
    return found


def _few_shot(config: Config) -> dict[str, Any] | None:
    """The worked examples of the prompts; None without any."""
    examples = examples_of(config)
    if not examples:
        return None
    return {
        "examples": len(examples),
        "response": config.prompts.few_shot.response,
        "digest": digest(examples),
    }


def _sampling(config: Config) -> dict[str, Any]:
    """The sampling; without stop strings the key is left out, as in earlier versions."""
    sampling = asdict(evaluation_sampling(config))
    return {key: value for key, value in sampling.items() if key != "stop" or value}
