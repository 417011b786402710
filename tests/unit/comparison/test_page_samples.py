"""The samples of a comparison's page: what is asked of `opsd sample` for a method."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.comparison.page_samples import sampling_command
from opsd_cli.config.resolve import resolve


@pytest.mark.parametrize(
    ("reference", "asked"), [("solution", True), ("answer", True), ("sibling", False)]
)
def test_page_has_token_divergences_where_the_teacher_has_a_reference(
    reference: str, asked: bool
) -> None:
    config = resolve(None, [f"teacher.reference={reference}"])
    command = sampling_command(Path("run"), config)
    assert ("--divergence" in command) is asked
