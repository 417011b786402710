"""Columns beside question, solution, answer and id, which problems keep for graders and hints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.sources import load_benchmark, load_splits
from tests.support.problem_files import WRITERS, load, load_text, write_jsonl

ROW: dict[str, Any] = {
    "question": "a", "answer": "7", "hint": "count", "tests": ["f(1) == 2", "f(2) == 3"],
    "n": 3, "share": 0.5, "info": {"level": 2, "easy": True, "note": None},
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_fields_are_plain_json_values(suffix: str, tmp_path: Path) -> None:
    WRITERS[suffix](tmp_path / f"a.{suffix}", [ROW])
    names = ["hint", "tests", "n", "share", "info"]
    problem = load(tmp_path / f"a.{suffix}", fields=names).problems[0]
    assert problem.fields == {name: ROW[name] for name in names}
    assert type(problem.fields["n"]) is int
    assert type(problem.fields["hint"]) is str


def test_a_field_of_csv_is_text_and_a_dotted_name_reads_a_nested_field(tmp_path: Path) -> None:
    WRITERS["csv"](tmp_path / "a.csv", [{"question": "a", "n": 3}])
    assert load(tmp_path / "a.csv", fields=["n"]).problems[0].fields == {"n": "3"}
    WRITERS["jsonl"](tmp_path / "a.jsonl", [ROW])
    assert load(tmp_path / "a.jsonl", fields=["info.level"]).problems[0].fields == {"info.level": 2}


def test_a_row_without_the_value_has_null(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [ROW, {"question": "b", "answer": "1"}])
    assert load(tmp_path / "a.jsonl", fields=["hint"]).problems[1].fields == {"hint": None}


def test_a_field_that_is_no_column(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [ROW])
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a.jsonl", fields=["hints"])
    assert "a.jsonl has no column 'hints', which data.fields names" in caught.value.message
    assert caught.value.hint == "did you mean 'hint'? name a column of the file"


def test_a_row_with_damage_in_a_field_is_left_out(tmp_path: Path) -> None:
    text = '{"question": "a", "hint": "x\\u0000"}\n{"question": "b", "hint": "y"}\n'
    loaded = load_text(tmp_path, "a.jsonl", text, fields=["hint"])
    assert [p.question for p in loaded.problems] == ["b"]
    assert loaded.report.damaged.count == 1


def test_every_split_and_a_benchmark_keep_the_fields(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{i}", "solution": f"\\boxed{{{i}}}", "hint": f"h{i}"} for i in range(30)
    ]
    path = tmp_path / "a.jsonl"
    write_jsonl(path, rows)
    config = Config.model_validate({"data": {"train": str(path), "fields": ["hint"]}})
    for each in (*load_splits(config).named().values(), load_benchmark(str(path), config)):
        assert all(p.fields == {"hint": p.question.replace("q", "h")} for p in each.problems)


def test_the_embedded_problems_have_no_fields() -> None:
    config = Config.model_validate({"data": {"train": "embedded", "fields": ["hint"]}})
    with pytest.raises(DataError, match="embedded problems have no column 'hint'"):
        load_splits(config)


def test_fields_are_part_of_a_sets_digest() -> None:
    load_report = LoadReport(rows=1, used=1)

    def digest(fields: dict[str, Any]) -> str:
        problem = Problem("1", "q", None, "7", "a", fields)
        return ProblemSet("a", (problem,), load_report).digest()

    assert digest({"hint": "x"}) != digest({"hint": "y"})
    assert digest({}) == ProblemSet("a", (Problem("1", "q", None, "7", "a"),), load_report).digest()
