"""File formats: every value is kept exactly as written, and reading has no side effects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_cli.errors import DataError
from opsd_cli.problems import LoadReport
from tests.support.problem_files import ROWS, WRITERS, answers, load, load_text, write_parquet

every_format = pytest.mark.parametrize("suffix", WRITERS)


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
def test_any_text_is_unchanged_by_every_format(tmp_path_factory: Any, texts: list[str]) -> None:
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


def test_the_unnamed_index_column_of_pandas_is_ignored(tmp_path: Path) -> None:
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
def test_accepted_json_layouts(text: str, tmp_path: Path) -> None:
    assert [p.question for p in load_text(tmp_path, "a.json", text).problems] == ["a", "b"]


def test_reading_uses_no_network_no_cache_and_no_torch(tmp_path: Path) -> None:
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
