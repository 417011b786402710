"""Files as people have them: values kept exactly, rows accounted for, errors that say where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_cli.errors import DataError, UsageError
from opsd_cli.problems import LoadReport, ProblemSet
from opsd_cli.problems.anomalies import Anomaly
from opsd_cli.problems.files import load_file

ROWS: list[dict[str, Any]] = [
    {"question": "What is 2+3?", "solution": "2+3=5, so \\boxed{5}.", "answer": "5"},
    {"question": "What, then,\nis 4+4?", "solution": 'Say "eight":\n\\boxed{8}', "answer": "8"},
    {"question": "Wie groß ist ½?", "solution": "½ = 0.5", "answer": "073"},
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: Mapping[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "jsonl": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "parquet": write_parquet,
}
every_format = pytest.mark.parametrize("suffix", WRITERS)


def load(path: Path, columns: Mapping[str, str | None] | None = None, **options: Any) -> ProblemSet:
    return load_file(path, columns, **{"need_solution": False, "need_answer": False, **options})


def load_text(folder: Path, name: str, text: str, **options: Any) -> ProblemSet:
    (folder / name).write_text(text, encoding="utf-8")
    return load(folder / name, **options)


def answers(problems: ProblemSet) -> list[str | None]:
    return [problem.answer for problem in problems.problems]


# Values


@every_format
def test_every_format_gives_the_same_problems(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"set [1]::a.{suffix}"
    WRITERS[suffix](path, ROWS)
    loaded = load(path, need_solution=True, need_answer=True)
    assert loaded.name == path.name
    assert [p.question for p in loaded.problems] == [row["question"] for row in ROWS]
    assert [p.solution for p in loaded.problems] == [row["solution"] for row in ROWS]
    assert answers(loaded) == ["5", "8", "073"]
    assert {p.source for p in loaded.problems} == {path.name}
    assert loaded.report == LoadReport(rows=3, used=3)


def test_json_answers_keep_their_literals(tmp_path: Path) -> None:
    written = [
        "73",
        '"073"',
        "0.50",
        "1.0",
        "99999999999999999999999",
        "-7",
        '"2024-01-01"',
        '"NA"',
    ]
    lines = "".join(f'{{"question": "q{i}", "answer": {a}}}\n' for i, a in enumerate(written))
    expected = [a.strip('"') for a in written]
    assert answers(load_text(tmp_path, "a.jsonl", lines)) == expected
    listed = "[" + ",".join(lines.split("\n")[:-1]) + "]"
    assert answers(load_text(tmp_path, "a.json", listed)) == expected


def test_csv_answers_keep_their_literals(tmp_path: Path) -> None:
    text = "question,answer\na,073\nb,1e5\nc,NaN\nd,None\ne, 7 \nf,0.50\ng,\n"
    loaded = load_text(tmp_path, "a.csv", text)
    assert answers(loaded) == ["073", "1e5", "NaN", "None", "7", "0.50", None]


def test_parquet_numbers_become_what_a_person_would_write(tmp_path: Path) -> None:
    from decimal import Decimal

    for column, expected in {
        (73, 5, -1): ["73", "5", "-1"],
        (73.0, None, 0.5): ["73", None, "0.5"],
        (1e-05, 1e300, float("nan")): ["0.00001", "1e+300", None],
        (Decimal("0.50"), Decimal("3.00"), None): ["0.50", "3.00", None],
        (True, False, None): ["true", "false", None],
        (b"12", b"x^2", None): ["12", "x^2", None],
    }.items():
        rows = [{"question": f"q{i}", "answer": value} for i, value in enumerate(column)]
        write_parquet(tmp_path / "a.parquet", rows)
        assert answers(load(tmp_path / "a.parquet")) == expected


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("null", None),
        ("NaN", None),
        ('"  "', None),
        ("[1, 2]", None),
        ('["7"]', "7"),
        ('{"value": 7}', None),
        ("true", "true"),
        ("1e-05", "0.00001"),
        ("2.5E+3", "2500"),
        ("1e999999999", "1e999999999"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_json_values_that_are_not_plain_text(
    literal: str, expected: str | None, tmp_path: Path
) -> None:
    line = f'{{"question": "q", "answer": {literal}}}'
    assert answers(load_text(tmp_path, "a.jsonl", line)) == [expected]


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(
            str.strip
        ),
        min_size=1,
        unique_by=lambda text: " ".join(text.split()),
    )
)
@settings(deadline=None, max_examples=40)
def test_any_text_survives_every_format(tmp_path_factory: Any, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    for suffix, write in WRITERS.items():
        write(folder / f"a.{suffix}", [{"question": text, "answer": text} for text in texts])
        loaded = load(folder / f"a.{suffix}")
        assert [p.question for p in loaded.problems] == [text.strip() for text in texts]


def test_long_csv_fields_and_byte_order_mark(tmp_path: Path) -> None:
    long = "x" * 200_000
    loaded = load_text(tmp_path, "a.csv", f"\ufeffquestion,solution\nq,{long}\n")
    assert loaded.problems[0].solution == long
    assert answers(load_text(tmp_path, "a.jsonl", '\ufeff{"question": "q", "answer": 1}')) == ["1"]


def test_the_unnamed_index_that_pandas_writes_is_no_column(tmp_path: Path) -> None:
    assert answers(load_text(tmp_path, "a.csv", ",question,answer\n0,a,1\n1,b,2\n")) == ["1", "2"]
    with pytest.raises(DataError, match="it has 'question'"):
        load_text(tmp_path, "a.csv", ",question\n0,a\n", need_answer=True)


def test_line_separators_inside_a_string_end_no_line(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "a.jsonl", '{"question": "a\u2028b\x85c"}\n')
    assert loaded.problems[0].question == "a\u2028b\x85c"


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "a"}\n{"question": "b"}\n',
        '{"version": "1", "data": [{"question": "a"}, {"question": "b"}], "tags": ["x"]}',
        '[{"question": "a"}, {"question": "b"}]',
    ],
)
def test_shapes_of_json(text: str, tmp_path: Path) -> None:
    assert [p.question for p in load_text(tmp_path, "a.json", text).problems] == ["a", "b"]


# Columns


@pytest.mark.parametrize("name", ["problem", "Question", "PROBLEM"])
def test_recognised_columns(name: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{name: "q", "Answer": 1, "Solution": "s"}])
    problem = load(tmp_path / "a.jsonl").problems[0]
    assert (problem.question, problem.solution, problem.answer) == ("q", "s", "1")


@every_format
def test_mapped_columns(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"n": "a1", "question": "wrong", "prompt": "q", "trace": "t", "final": "7", "answer": "0"}
    ]
    WRITERS[suffix](tmp_path / f"a.{suffix}", rows)
    columns = {"id": "n", "question": "prompt", "solution": "trace", "answer": "final"}
    problem = load(tmp_path / f"a.{suffix}", columns).problems[0]
    assert (problem.id, problem.question, problem.solution, problem.answer) == ("a1", "q", "t", "7")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_dotted_name_reads_inside_an_object(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"question": "a", "reward": {"style": "rule", "truth": {"value": 7}}},
        {"question": "b", "reward": None},
    ]
    WRITERS[suffix](tmp_path / f"a.{suffix}", rows)
    loaded = load(tmp_path / f"a.{suffix}", {"answer": "reward.truth.value"})
    assert answers(loaded) == ["7", None]


@every_format
def test_a_column_whose_name_holds_a_dot(suffix: str, tmp_path: Path) -> None:
    WRITERS[suffix](tmp_path / f"a.{suffix}", [{"question": "a", "x.y": "7"}])
    assert answers(load(tmp_path / f"a.{suffix}", {"answer": "x.y"})) == ["7"]


@every_format
def test_a_mapped_column_that_does_not_exist(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    WRITERS[suffix](path, ROWS)
    with pytest.raises(DataError) as caught:
        load(path, {"solution": "Solutions"}, need_solution=True)
    assert caught.value.message == (
        f"{path.name} has no column 'Solutions' for the solution; "
        "it has 'question', 'solution', 'answer'"
    )
    assert caught.value.hint.startswith("did you mean 'solution'?")


def test_an_unknown_role(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(DataError, match="'anwser'") as caught:
        load(tmp_path / "a.jsonl", {"anwser": "answer"})
    assert "did you mean 'answer'?" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "needs", "role"),
    [
        ({"prompt": "q"}, {}, "question"),
        ({"question": "q", "answer": 1}, {"need_solution": True}, "solution"),
        ({"question": "q"}, {"need_answer": True}, "answer"),
    ],
)
def test_no_column_for_a_needed_role(
    row: dict[str, Any], needs: dict[str, bool], role: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=f"no column for the {role}; it has ") as caught:
        load(tmp_path / "a.jsonl", **needs)
    assert f"data.columns.{role}=" in caught.value.hint


def test_a_column_that_only_later_rows_have(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "a"}, {"question": "b", "answer": 2}])
    assert answers(load(tmp_path / "a.jsonl", {"answer": "answer"})) == [None, "2"]


# Answers derived from solutions


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"solution": "first \\boxed{1}, then \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
        ({"solution": "2+3 = <<2+3=5>>5 apples\n#### 1,005"}, "1,005"),
        ({"solution": "so \\boxed{5}", "answer": "6"}, "6"),
        ({"solution": "so \\boxed{5}", "answer": ""}, "5"),
        ({"answer": "2+3=5\n#### 5"}, "5"),
        ({"solution": "so \\boxed{6}", "answer": "$\\boxed{5}$"}, "5"),
        ({"solution": "no mark"}, None),
        ({"solution": "an empty \\boxed{ }"}, None),
        ({"solution": "cut off at \\boxed{12"}, None),
    ],
)
def test_answers_taken_from_the_end_of_a_solution(
    row: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", **row}])
    loaded = load(tmp_path / "a.jsonl")
    assert answers(loaded) == [expected]
    derived = expected is not None and expected != row.get("answer")
    assert loaded.report.derived_answers == derived


def test_gsm8k_as_published_serves_both_roles(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "9+9=18\n#### 18"}])
    with pytest.raises(DataError, match="no column for the solution"):
        load(tmp_path / "a.jsonl", need_solution=True, need_answer=True)
    loaded = load(
        tmp_path / "a.jsonl", {"solution": "answer"}, need_solution=True, need_answer=True
    )
    assert loaded.problems[0].solution == "9+9=18\n#### 18"
    assert answers(loaded) == ["18"]


def test_a_column_mapped_to_the_solution_is_not_the_answer_as_well(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a proof"}])
    loaded = load(tmp_path / "a.jsonl", {"solution": "answer"}, need_solution=True)
    assert (loaded.problems[0].solution, loaded.problems[0].answer) == ("a proof", None)


def test_a_mapped_solution_may_be_absent_where_none_is_needed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": 7}])
    assert answers(load(tmp_path / "a.jsonl", {"solution": "trace"}, need_answer=True)) == ["7"]
    with pytest.raises(DataError, match="no column 'trace' for the solution"):
        load(tmp_path / "a.jsonl", {"solution": "trace"}, need_solution=True)
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q"}])
    with pytest.raises(DataError, match="no column for the answer"):
        load(tmp_path / "a.jsonl", {"solution": "trace"}, need_answer=True)


# Rows left out


def test_rows_without_what_is_needed_are_counted(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "solution": "s", "answer": 1},
        {"question": "  ", "solution": "s", "answer": 1},
        {"question": None, "solution": None, "answer": None},
        {"question": "b", "answer": 1},
        {"question": "c", "solution": "no mark"},
        {"question": "d", "solution": "\\boxed{4}"},
        {"question": "a\n", "solution": "another", "answer": 2},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    both = load(tmp_path / "a.jsonl", need_solution=True, need_answer=True)
    assert [(p.question, p.answer) for p in both.problems] == [("a", "1"), ("d", "4")]
    assert both.report == LoadReport(
        rows=7,
        used=2,
        no_question=2,
        no_solution=1,
        no_answer=1,
        derived_answers=1,
        duplicates=1,
        conflicting=Anomaly(1, "row 7 says '2', and before it was '1'"),
    )
    neither = load(tmp_path / "a.jsonl")
    assert [p.question for p in neither.problems] == ["a", "b", "c", "d"]
    assert (neither.report.no_solution, neither.report.no_answer) == (0, 0)


def test_rows_with_damaged_text_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        '{"question": "whole", "answer": "1"}',
        '{"question": "half a pair \\ud800", "answer": "2"}',
        '{"question": "a NUL", "answer": "3\\u0000"}',
        '{"question": "in a column not used", "answer": "4", "note": "\\u0000"}',
    ]
    loaded = load_text(tmp_path, "a.jsonl", "\n".join(lines))
    assert [p.answer for p in loaded.problems] == ["1", "4"]
    assert loaded.report.damaged == Anomaly(2, "row 2 has no valid Unicode")
    assert loaded.report.sentence() == (
        "used 2 of 4 rows: 2 with damaged text (first: row 2 has no valid Unicode)"
    )


def test_parquet_with_broken_utf8_loses_only_the_rows_that_are_broken(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [b"first", b"bro\xffken", "zweite ü".encode(), b"last"]
    text = pa.array(cells, pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(cells), text.buffers())
    nested = pa.StructArray.from_arrays([broken], ["text"])
    answers_ = pa.array(["1", "2", "3", "4"])
    pq.write_table(pa.table({"question": broken, "answer": answers_}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"q": nested, "answer": answers_}), tmp_path / "b.parquet")
    for name, columns in (("a.parquet", {}), ("b.parquet", {"question": "q.text"})):
        loaded = load(tmp_path / name, columns)
        assert [(p.question, p.answer) for p in loaded.problems] == [
            ("first", "1"),
            ("zweite ü", "3"),
            ("last", "4"),
        ]
        assert loaded.report.damaged.count == 1 and "row 2" in loaded.report.damaged.first


def test_answers_that_cannot_be_matched_are_counted_and_kept(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "solution": "s", "answer": "7"},
        {"question": "b", "solution": "s", "answer": "\\boxed{"},
        {"question": "c", "solution": "s", "answer": "\\frac{1}{2"},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    loaded = load(tmp_path / "a.jsonl", need_answer=True)
    assert len(loaded.problems) == 3
    assert loaded.report.unmatchable == Anomaly(2, r"row 2: '\\boxed{'")
    assert loaded.report.sentence() == (
        "used all 3 rows; 2 answers that cannot be matched, which counts as wrong "
        r"(first: row 2: '\\boxed{')"
    )


def test_what_contradicts_itself_is_warned_of(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "solution": "so \\boxed{6}", "answer": "5"},
        {"question": "b", "solution": "so \\boxed{\\frac{1}{2}}", "answer": "0.5"},
        {"question": "c", "solution": "so \\boxed{1,000}", "answer": "$1000$"},
        {"question": "d", "solution": "so \\boxed{\\sqrt{4}}", "answer": "3"},
        {"question": "e", "solution": "so \\boxed{\\text{(B)}}", "answer": "C"},
        {"question": "f", "solution": "so \\boxed{12}", "answer": "B"},
        {"question": "g", "solution": "so \\boxed{3}\n#### 4 remarks, #### 4", "answer": "3"},
        {"question": "h", "solution": "that is\n#### 3", "answer": "3.0"},
        {"question": "a", "solution": "s", "answer": "8"},
        {"question": "what is \frac{1}{2}?", "solution": "s", "answer": "1"},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    loaded = load(tmp_path / "a.jsonl")
    assert loaded.report.used == 9
    assert loaded.notes == (
        "a.jsonl: 2 answers of another value than the solution's own box "
        "(first: row 1 has '5', its solution '6')",
        "a.jsonl: 1 question seen before, now with another answer, left out "
        "(first: row 9 says '8', and before it was '5')",
        "a.jsonl: 1 row with control characters, as of a backslash that was lost (first: row 10)",
    )


@pytest.mark.parametrize("depth", [480, 495, 700, 980, 5_000, 100_000])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_deep_nesting_is_read_or_refused_in_a_line(depth: int, suffix: str, tmp_path: Path) -> None:
    deep = '{"a": ' * depth + "1" + "}" * depth
    line = f'{{"question": "q", "answer": "1", "extra": {deep}}}'
    try:
        loaded = load_text(tmp_path, f"a.{suffix}", line if suffix == "jsonl" else f"[{line}]")
    except DataError as error:
        assert "nested too deeply" in error.message
    else:
        assert answers(loaded) == ["1"]


def test_the_first_usable_of_equal_questions_is_kept(tmp_path: Path) -> None:
    rows = [
        {"question": "What is 1+1?"},
        {"question": "What is\n 1+1?", "answer": 2},
        {"question": "What is 1+1?", "answer": 3},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    loaded = load(tmp_path / "a.jsonl", need_answer=True)
    assert answers(loaded) == ["2"]
    assert (loaded.report.no_answer, loaded.report.duplicates) == (1, 1)


def test_ids_are_stable_unique_and_independent_of_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_csv(tmp_path / "b.csv", ROWS[::-1])
    one = {p.question: p.id for p in load(tmp_path / "a.jsonl").problems}
    two = {p.question: p.id for p in load(tmp_path / "b.csv").problems}
    assert one == two and len(set(one.values())) == 3
    # Pinned: a resumed evaluation finds its problems by these ids, across versions too.
    assert one["What is 2+3?"] == "f574924a4d93e5f1"


def test_an_id_given_twice_is_refused_and_a_blank_one_replaced(tmp_path: Path) -> None:
    rows = [{"question": "a", "n": 1}, {"question": "b", "n": None}, {"question": "a", "n": 1}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    loaded = load(tmp_path / "a.jsonl", {"id": "n"})
    assert [p.id for p in loaded.problems] == ["1", load(tmp_path / "a.jsonl").problems[1].id]
    write_jsonl(tmp_path / "a.jsonl", [{"question": "a", "n": 1}, {"question": "b", "n": "1"}])
    with pytest.raises(DataError, match="gives the id '1' to two questions, the second in row 2"):
        load(tmp_path / "a.jsonl", {"id": "n"})


@every_format
def test_limit_counts_usable_problems(suffix: str, tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "" if i == 1 else str(i)} for i in range(5)]
    WRITERS[suffix](tmp_path / f"a.{suffix}", rows)
    loaded = load(tmp_path / f"a.{suffix}", need_answer=True, limit=2)
    assert answers(loaded) == ["0", "2"]
    assert loaded.report == LoadReport(rows=3, used=2, no_answer=1, limited=True)
    assert not load(tmp_path / f"a.{suffix}", limit=5).report.limited
    with pytest.raises(UsageError, match="limit of 0"):
        load(tmp_path / f"a.{suffix}", limit=0)


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (LoadReport(rows=100, used=100), "used all 100 rows"),
        (LoadReport(rows=1, used=1), "used all 1 row"),
        (
            LoadReport(rows=100, used=95, no_solution=3, no_answer=2),
            "used 95 of 100 rows: 3 without a solution, 2 without an answer",
        ),
        (
            LoadReport(rows=1200, used=1198, no_question=1, duplicates=1, derived_answers=1000),
            "used 1,198 of 1,200 rows: 1 without a question, 1 with a question seen before; "
            "1,000 answers read off a longer text",
        ),
        (
            LoadReport(rows=12, used=10, no_answer=2, limited=True),
            "used 10 of the first 12 rows: 2 without an answer",
        ),
        (LoadReport(rows=10, used=10, limited=True), "used the first 10 rows"),
    ],
)
def test_the_sentence_for_a_person(report: LoadReport, sentence: str) -> None:
    assert report.sentence() == sentence


# Files that cannot be used

BAD_FILES: list[tuple[str, str, bytes, str, str]] = [
    ("empty", "a.jsonl", b"", "a.jsonl is empty", "problem"),
    ("blank", "a.csv", b" \n\n", "a.csv is empty", "problem"),
    (
        "broken line",
        "a.jsonl",
        b'{"question": "a"}\n\n{"question": }\n',
        "line 3 is not valid JSON",
        "line",
    ),
    ("cut line", "a.jsonl", b'{"question": "a"}\n{"quest', "line 2 is not valid JSON", "line"),
    ("bare value", "a.jsonl", b'{"question": "a"}\n7\n', "line 2 is not an object", "question"),
    (
        "deep line",
        "a.jsonl",
        b'{"question": ' + b"[" * 200_000,
        "line 1 is nested too deeply",
        "flat",
    ),
    (
        "broken json",
        "a.json",
        b'[{"question": "a"},\n {"question" "b"}]',
        "line 2 is not valid JSON",
        "mend",
    ),
    ("deep json", "a.json", b"[" * 200_000, "nested too deeply", "flat"),
    ("a number", "a.json", b"7", "not a list of objects", "list"),
    ("columns", "a.json", b'{"question": ["a"], "answer": ["b"]}', "not a list of objects", "list"),
    (
        "two lists",
        "a.json",
        b'{"x": [{"question": "a"}], "y": [{"question": "b"}]}',
        "not a list",
        "one such",
    ),
    ("list of text", "a.json", b'["a", "b"]', "item 1 is not an object", "question"),
    ("no items", "a.json", b"[]", "no column for the question; it has no columns", "data.columns"),
    (
        "no header",
        "a.csv",
        b"What is 2+3?,5\nWhat is 1+1?,2\n",
        "it has 'What is 2+3?', '5'",
        "data.columns",
    ),
    ("header alone", "a.csv", b"question,answer\n", "a.csv has no rows", "at least one"),
    (
        "short row",
        "a.csv",
        b"question,answer\na,1\nb\n",
        "line 3 has 1 fields where the header has 2",
        "quotes",
    ),
    (
        "long row",
        "a.csv",
        b"question,answer\na,1,2\n",
        "line 2 has 3 fields where the header has 2",
        "quotes",
    ),
    ("open quote", "a.csv", b'question,answer\n"a,1\n', "is not valid CSV", "quote"),
    (
        "same names",
        "a.csv",
        b"question,answer,answer\na,1,2\n",
        "two columns 'answer'",
        "of its own",
    ),
    (
        "latin-1",
        "a.csv",
        "question\na\ngroß\n".encode("latin-1"),
        "line 3 is not UTF-8 (byte 0xdf)",
        "UTF-8",
    ),
    (
        "utf-16",
        "a.jsonl",
        '{"question": "a"}'.encode("utf-16"),
        "line 1 is not UTF-8 (byte 0xff)",
        "UTF-8",
    ),
    ("garbage", "a.parquet", b"hello", "a.parquet cannot be read as Parquet", "cut short"),
    ("nothing", "a.parquet", b"", "a.parquet cannot be read as Parquet", "cut short"),
    (
        "bad footer",
        "a.parquet",
        b"PAR1" + b"x" * 90 + b"PAR1",
        "cannot be read as Parquet",
        "cut short",
    ),
    (
        "suffix",
        "a.tsv",
        b"question\tanswer\n",
        "format of a.tsv from its suffix '.tsv'",
        ".jsonl, .json",
    ),
    ("no suffix", "problems", b"x", "format of problems from its suffix ''", ".jsonl"),
    (
        "nothing usable",
        "a.jsonl",
        b'{"question": "a", "answer": {"value": 1}}\n{"question": ""}\n',
        "none of the 2 rows of a.jsonl can be used: 1 without a question, 1 without an answer",
        "question from 'question', answer from 'answer'",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [case[1:] for case in BAD_FILES],
    ids=[case[0] for case in BAD_FILES],
)
def test_bad_files(name: str, content: bytes, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name, need_answer="nothing" not in name and b'"value"' in content)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message + caught.value.hint
    assert os.listdir(tmp_path) == [name]


def test_a_parquet_file_damaged_inside(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:200] = b"\xff" * 196
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        load(tmp_path / "a.parquet")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match="there is no file") as caught:
        load(tmp_path / "trian.jsonl")
    assert "did you mean" in caught.value.hint and "train.jsonl" in caught.value.hint
    with pytest.raises(DataError, match="there is no file"):
        load(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path)


def test_reading_touches_nothing_but_the_file(tmp_path: Path) -> None:
    """No network, no cache in the user's folders, no PyTorch, no word on the terminal."""
    for suffix, write in WRITERS.items():
        write(tmp_path / f"a.{suffix}", ROWS)
    (tmp_path / "home").mkdir()
    script = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("network")
socket.socket.connect = socket.getaddrinfo = refuse
from opsd_cli.problems.files import load_file
for suffix in ("jsonl", "json", "csv", "parquet"):
    assert len(load_file(f"a.{suffix}", need_solution=True, need_answer=True).problems) == 3
heavy = {"torch", "mlx", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.json", "a.jsonl", "a.parquet", "home"]
    assert not list((tmp_path / "home").iterdir())
