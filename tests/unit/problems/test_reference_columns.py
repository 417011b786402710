"""The columns that training problems need for the teacher's reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.problems.sources import Splits, load_splits
from tests.support.problem_files import write_jsonl

ROWS: list[dict[str, Any]] = [
    {"question": f"q{n}", "answer": str(n), "hint": f"h{n}", "rubric": ["a", "b"]}
    for n in range(40)
]


def loaded(path: Path, rows: list[dict[str, Any]], reference: str, **sections: Any) -> Splits:
    write_jsonl(path / "a.jsonl", rows)
    tree = {
        "data": {"train": str(path / "a.jsonl")}, "teacher": {"reference": reference}, **sections,
    }  # fmt: skip
    return load_splits(Config.model_validate(tree))


@pytest.mark.parametrize("reference", ["answer", "sibling", "hint"])
def test_a_set_without_solutions_trains_a_teacher_that_needs_none(
    reference: str, tmp_path: Path
) -> None:
    splits = loaded(tmp_path, ROWS, reference)
    assert len(splits.train.problems) == 40 - 4 - 4
    assert all(problem.solution is None for problem in splits.train.problems)


@pytest.mark.parametrize(
    ("reference", "sections"),
    [
        ("solution", {}), ("{hint} {solution}", {}), ("answer", {"method": "sft"}),
    ],
)  # fmt: skip
def test_a_set_without_solutions_is_refused_with_the_references_that_need_none(
    reference: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no column for the solution") as caught:
        loaded(tmp_path, ROWS, reference, **sections)
    assert "teacher.reference=answer" in caught.value.hint


def test_a_sibling_that_falls_back_to_the_solution_needs_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    teacher = {"reference": "sibling", "without_sibling": "solution"}
    data = {"train": str(tmp_path / "a.jsonl")}
    with pytest.raises(DataError, match="no column for the solution"):
        load_splits(Config.model_validate({"data": data, "teacher": teacher}))


def test_rows_without_a_solution_are_used_where_the_teacher_needs_none(tmp_path: Path) -> None:
    rows = [*ROWS[:30], *(row | {"solution": "s"} for row in ROWS[30:])]
    assert loaded(tmp_path, rows, "answer").train.report.used == 40
    assert loaded(tmp_path, rows, "solution").train.report.used == 10


def test_training_problems_keep_the_columns_of_the_reference(tmp_path: Path) -> None:
    problem = loaded(tmp_path, ROWS, "{hint}: {rubric}, {answer}").train.problems[0]
    assert problem.fields == {"hint": f"h{problem.answer}", "rubric": ["a", "b"]}


def test_the_columns_of_the_reference_come_after_those_of_data_fields(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    tree = {
        "data": {"train": str(tmp_path / "a.jsonl"), "fields": ["rubric"]},
        "teacher": {"reference": "hint"},
    }
    problem = load_splits(Config.model_validate(tree)).train.problems[0]
    assert list(problem.fields) == ["rubric", "hint"]


@pytest.mark.parametrize("missing", [None, " ", [], {}, [None, ""]])
def test_rows_without_a_value_of_the_reference_are_left_out_and_counted(
    missing: Any, tmp_path: Path
) -> None:
    rows = [ROWS[0] | {"hint": missing}, *ROWS[1:]]
    report = loaded(tmp_path, rows, "hint").train.report
    assert (report.rows, report.used, report.no_reference) == (40, 39, 1)
    assert "1 without a value of teacher.reference" in report.sentence()
    # Without the reference the row is used.
    assert loaded(tmp_path, rows, "answer").train.report.used == 40


def test_test_problems_need_no_column_of_the_reference(tmp_path: Path) -> None:
    plain = [{"question": f"t{n}", "answer": str(n)} for n in range(20)]
    write_jsonl(tmp_path / "t.jsonl", plain)
    write_jsonl(tmp_path / "v.jsonl", [row | {"question": row["question"] + "v"} for row in plain])
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    data = {"train": "a.jsonl", "validation": "v.jsonl", "test": "t.jsonl"}
    data = {split: str(tmp_path / name) for split, name in data.items()}
    tree = {"data": data, "teacher": {"reference": "hint"}}
    splits = load_splits(Config.model_validate(tree))
    assert len(splits.train.problems) == 40
    assert len(splits.test.problems) == len(splits.validation.problems) == 20


def test_a_reference_that_is_no_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'hints'") as caught:
        loaded(tmp_path, ROWS, "hints")
    assert "did you mean 'hint'?" in caught.value.hint


def test_the_embedded_problems_have_no_column_for_a_reference() -> None:
    tree = {"data": {"train": "embedded"}, "teacher": {"reference": "hint"}}
    with pytest.raises(DataError, match=r"data\.fields or teacher\.reference names"):
        load_splits(Config.model_validate(tree))
