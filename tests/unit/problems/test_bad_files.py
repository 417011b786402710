"""Files that cannot be read: one line that names the file and the place, and a hint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opsd_cli.errors import DataError
from tests.support.problem_files import ROWS, load, write_jsonl, write_parquet

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
def test_an_unreadable_file_is_one_line_with_a_hint(
    name: str, content: bytes, message: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name, need_answer="nothing" not in name and b'"value"' in content)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message + caught.value.hint
    assert os.listdir(tmp_path) == [name]


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:200] = b"\xff" * 196
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        load(tmp_path / "a.parquet")


def test_a_missing_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match="there is no file") as caught:
        load(tmp_path / "trian.jsonl")
    assert "did you mean" in caught.value.hint and "train.jsonl" in caught.value.hint
    with pytest.raises(DataError, match="there is no file"):
        load(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path)
