"""The config section of grading: who judges a completion, and within which bounds."""

from __future__ import annotations

from opsd_cli.config.bounds import Seconds, Section
from opsd_cli.config.choices import GraderName


class Grading(Section):
    grader: GraderName = "math"
    """Grader that decides whether a completion is right; `math` compares answers as mathematics."""
    deadline_seconds: Seconds = 10.0
    """Timeout for one grade, in seconds; an answer not graded by then counts as wrong."""
