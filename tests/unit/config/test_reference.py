"""docs/config.md is generated from the schema."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from opsd_cli.config.reference import reference
from opsd_cli.config.schema import key_paths

PAGE = Path(__file__).parents[3] / "docs" / "config.md"
COMMAND = "python -m opsd_cli.config.reference > docs/config.md"


def test_config_reference_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), f"run: {COMMAND}"


def test_config_reference_has_a_row_with_a_help_text_for_every_key() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    listed = {row.split("`")[1]: row for row in rows}
    keys = {
        path
        for path, field in key_paths()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    }
    assert set(listed) == keys
    assert not [path for path, row in listed.items() if row.endswith("|  |")]


def test_config_reference_has_bounds_and_choices() -> None:
    page = reference()
    assert "| `sampling.top_p` | number | `0.95` | > 0, ≤ 1 |" in page
    assert '| `teacher.weights` | `initial`, `live`, `ema` | `"initial"` |' in page
    assert "| `optimizer.betas` | 2 × number | `[0.9, 0.999]` | ≥ 0, < 1 |" in page
