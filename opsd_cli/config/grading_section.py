"""The config section of grading: who judges a completion, and within which bounds."""

from __future__ import annotations

from pydantic import Field

from opsd_cli.config.bounds import Seconds, Section, Share
from opsd_cli.config.choices import GraderName


class Grading(Section):
    grader: GraderName = "math"
    """Grader that decides whether a completion is right (docs/graders.md): math compares answers as
    mathematics; FILE.py:FUNCTION and MODULE:FUNCTION are functions of your own."""
    pass_at: Share = 1.0
    """Least score that counts as correct, where the grader gives numbers."""
    deadline_seconds: Seconds = 10.0
    """Timeout for one grade, in seconds; an answer not graded by then counts as wrong."""
    memory_gb: float = Field(2.0, ge=0.25, le=2**20)
    """On Linux, limit of the address space of a process that runs a function, unit tests or a
    command of yours, in GiB; above it the completion counts as wrong."""
