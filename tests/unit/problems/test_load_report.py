"""The load report: rows left out, deduplication, anomalies, ids and limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.errors import DataError, UsageError
from opsd_cli.problems import LoadReport
from opsd_cli.problems.anomalies import MOST_DESCRIBED, Anomaly
from tests.support.problem_files import (
    ROWS,
    WRITERS,
    answers,
    load,
    load_text,
    write_csv,
    write_jsonl,
)

every_format = pytest.mark.parametrize("suffix", WRITERS)


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


def test_parquet_with_invalid_utf8_loses_only_the_affected_rows(tmp_path: Path) -> None:
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


def test_unmatchable_answers_are_counted_and_kept(tmp_path: Path) -> None:
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


def test_contradicting_conflicting_and_control_character_rows_are_warned_of(tmp_path: Path) -> None:
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
        {"question": "i", "solution": "It is 12 apples. The answer is 12.", "answer": "12"},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    loaded = load(tmp_path / "a.jsonl")
    assert loaded.report.used == 10
    assert loaded.notes == (
        "a.jsonl: 2 answers of another value than the solution states "
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


def test_deduplication_keeps_the_first_usable_row(tmp_path: Path) -> None:
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


def test_a_duplicate_id_is_refused_and_a_blank_one_replaced(tmp_path: Path) -> None:
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
def test_the_sentence_of_the_report(report: LoadReport, sentence: str) -> None:
    assert report.sentence() == sentence


@pytest.mark.parametrize(
    ("solution", "answer", "stated"),
    [
        ("6 and 6 more. The answer is 12.", "15", "12"),
        ("So there are 12.\n\n**Answer:** 12", "15", "12"),
        ("It is \\boxed{15}.\nThe answer is 12.", "15", "12"),
        ("It is \\boxed{15}.\nThe answer is 12.", None, "12"),
        ("The answer is 12. " + "And so on. " * 200 + "\nThe answer is 9.", "12", "9"),
        ("6 and 6 more. The answer is 12.", "12", None),
        ("6 and 6 more. The answer is 12 apples.", "15", None),
        ("The answer is 15.\nThat is 3 times 5.", "15", None),
    ],
)
def test_contradicting_answer_in_a_sentence_of_the_solution(
    tmp_path: Path, solution: str, answer: str | None, stated: str | None
) -> None:
    row = {"question": "a", "solution": solution} | ({"answer": answer} if answer else {})
    write_jsonl(tmp_path / "a.jsonl", [row])
    report = load(tmp_path / "a.jsonl").report
    if stated is None:
        assert report.contradicting.count == 0
    else:
        gold = answer or "15"
        assert report.contradicting == Anomaly(1, f"row 1 has '{gold}', its solution '{stated}'")


def test_anomalous_rows_are_described_up_to_a_number(tmp_path: Path) -> None:
    rows = [
        {"question": str(n), "solution": "\\boxed{1}", "answer": "2"}
        for n in range(MOST_DESCRIBED + 5)
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = load(tmp_path / "a.jsonl").report.contradicting
    assert found.count == MOST_DESCRIBED + 5 and len(found.described) == MOST_DESCRIBED
    assert found.described[-1].startswith(f"row {MOST_DESCRIBED} has ")
