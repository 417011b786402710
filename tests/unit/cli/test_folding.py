"""Long names in tables: broken between their parts, and no character of them cut."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from opsd_cli.cli.compare_output import CHOSEN, NEWEST, progress_table
from opsd_cli.cli.compare_variants import choices_table
from opsd_cli.cli.folding import folded
from opsd_cli.cli.plan import plan_table
from opsd_cli.comparison.jobs import Job, Progress
from opsd_cli.config.resolve import resolve
from opsd_cli.planning.token_plan import Lengths, plan_of_sizes
from tests.support.screens import drawn

LABEL = "opsd train.weigh_groups=pass_rate, teacher.without_reference=answer"
#: What a line of a name may end in, and the ends of the parts of this one.
MARKS = (".", "_", "=", ",", "+", "pass_rate", "answer", "answer-s0", "opsd")
CONFIG = resolve(None, [])


def column(table: RenderableType) -> list[str]:
    """The lines of a table's first column below its heading, 80 columns wide."""
    lines = [line.strip().partition("  ")[0] for line in drawn(table, 80)]
    below = next(n for n, line in enumerate(lines) if line.startswith("opsd"))
    return [line for line in lines[below:] if not line.endswith("left")]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (80, ["opsd train.passes=4"]),
        (18, ["opsd", "train.passes=4"]),
        (12, ["opsd train.", "passes=4"]),
        (4, ["opsd", "trai", "n.", "pass", "es=4"]),
    ],
)
def test_name_breaks_between_words_then_at_marks_then_anywhere(
    width: int, lines: list[str]
) -> None:
    assert folded("opsd train.passes=4", width) == lines


def test_name_keeps_a_number_and_every_character() -> None:
    assert folded("optimizer.learning_rate=0.0004", 12) == [
        "optimizer.", "learning_", "rate=0.0004",
    ]  # fmt: skip
    assert folded("字" * 5, 4) == ["字字", "字字", "字"]
    for width in range(2, 70):
        lines = folded(LABEL, width)
        assert "".join(lines).replace(" ", "") == LABEL.replace(" ", "")
        assert max(map(cell_len, lines)) <= width


def test_tables_of_a_comparison_cut_no_label() -> None:
    sizes: dict[str, int | None] = {"train": 100, "validation": 10, "test": 20}
    job = Job(f"{LABEL.replace(' ', '+')}-s0", LABEL, CONFIG)
    arm = {
        "changes": {"train.weigh_groups": "pass_rate", "teacher.without_reference": "answer"},
        "accuracy": {"best": {"value": 0.5, "low": 0.4, "high": 0.6}},
        "difference": {"best": {"value": 0.1, "low": 0.0, "high": 0.2}},
        "verdict": "cannot be told apart",
        "seeds_needed": 9,
    }
    base = {"base": "opsd", "base_values": {"train.weigh_groups": "none"}}
    tables = (
        progress_table([Progress(job, "done", 5, 0.4, 90, 100.0)], 1),
        plan_table({LABEL: plan_of_sizes(CONFIG, sizes, Lengths(9, 9, 9))}, "arm"),
        choices_table({**base, "arms": {"opsd": arm, LABEL: arm}}, 5),
    )
    for table in tables:
        lines = column(table)
        joined = "".join(lines).replace("+", " ")
        for part in ("train.weigh_groups=pass_rate", "teacher.without_reference=answer"):
            assert part in joined
        assert all(line.endswith((*MARKS, "none)")) for line in lines), lines


def test_comparison_table_says_which_accuracy_its_runs_show() -> None:
    job = Job("opsd-s0", "opsd", CONFIG)
    heading, row, *_ = drawn(progress_table([Progress(job, "done", 5, 0.4)], 1), 80)
    assert NEWEST in heading and "40.0%" in row
    assert "checkpoint that validation chose" in CHOSEN and "last step" in CHOSEN
