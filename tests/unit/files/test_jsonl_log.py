"""JSONL logs: append, marks of length and digest, torn and damaged lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.errors import RunError
from opsd_cli.files.jsonl_log import Log, read_rows

ROWS = [{"step": 1, "text": "é"}, {"step": 2, "text": "\ud800"}]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path / "metrics.jsonl")
    made.append(*ROWS)
    return made


def test_log_rows_are_those_appended(log: Log) -> None:
    assert list(log.rows()) == ROWS == list(read_rows(log.path))
    ends = [end for _, end in log.rows_with_ends()]
    assert ends[-1] == log.path.stat().st_size == log.mark()["bytes"]


def test_log_mark_is_the_same_for_a_log_opened_again(log: Log) -> None:
    assert Log(log.path).mark() == log.mark()


def test_log_names_what_was_lost_since_a_mark(log: Log) -> None:
    mark, data = log.mark(), log.path.read_bytes()
    log.append({"step": 3})
    assert log.lost_since(mark) is None
    log.path.write_bytes(data[:-4])
    assert Log(log.path).lost_since(mark) == "metrics.jsonl lacks its last 4 bytes"
    log.path.write_bytes(data.replace(b"1", b"7", 1))
    assert Log(log.path).lost_since(mark) == "metrics.jsonl was changed"
    log.path.unlink()
    assert Log(log.path).lost_since(mark) == "metrics.jsonl is missing"


def test_log_reader_skips_a_line_torn_inside_a_character(log: Log) -> None:
    with log.path.open("ab") as out:
        out.write('{"text": "é'.encode()[:-1])
    assert list(read_rows(log.path)) == ROWS


@pytest.mark.parametrize("line", [b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_log_reader_names_a_damaged_line(log: Log, line: bytes) -> None:
    with log.path.open("ab") as out:
        out.write(line + b"\n")
    with pytest.raises(RunError, match=r"line 3 of .* is damaged"):
        list(read_rows(log.path))


def test_log_keep_replaces_the_rows(log: Log) -> None:
    log.keep(ROWS[:1])
    assert list(log.rows()) == ROWS[:1] and Log(log.path).mark() == log.mark()
