"""A grader that fails on the completions of a preflight: they then say nothing about the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from opsd_cli.evaluation.samples import Evaluation
from opsd_cli.grading.interface import FAILED as STATUSES

#: Key of a preflight's record; it is there only if the grader failed.
FAILED = "grader_failed"
#: Share of the completions that the grader fails on from which on nothing was measured.
MOST = 0.5
MEND = (
    "mend the grader (docs/graders.md); where it takes too long, --set grading.deadline_seconds "
    "gives it more time"
)


def failures(found: Iterable[Evaluation]) -> dict[str, Any]:
    """What a preflight's record says of a grader that failed: empty if it did not.

    Its `statuses` are counts of completions, and `reason` is the first one known.
    """
    samples = [sample for each in found for sample in each.samples]
    failed = [sample for sample in samples if sample.status in STATUSES]
    if not failed:
        return {}
    reason = next((sample.reason for sample in failed if sample.reason), None)
    statuses = dict(Counter(sample.status for sample in failed))
    return {FAILED: {"completions": len(samples), "statuses": statuses, "reason": reason}}


def mostly_failed(record: Mapping[str, Any]) -> bool:
    """True if the grader failed on at least half of the completions."""
    if FAILED not in record:
        return False
    failed = record[FAILED]
    return bool(sum(failed["statuses"].values()) >= MOST * failed["completions"])


def described(record: Mapping[str, Any]) -> str:
    """How often the grader failed and why, a sentence without capital and full stop."""
    failed = record[FAILED]
    count, whole = sum(failed["statuses"].values()), failed["completions"]
    number = f"all {whole:,}" if count == whole else f"{count:,} of {whole:,}"
    kinds = ", ".join(failed["statuses"])
    why = f": {failed['reason']}" if failed["reason"] else ""
    return f"the grader failed on {number} completions ({kinds}{why})"
