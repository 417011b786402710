"""JSONL logs: appends, digests of a prefix, damaged and incomplete lines, truncation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from opsd_cli.errors import NotWritten, RunError
from opsd_cli.files.jsonl_log import Log, last_row, read_rows

ROWS = [{"step": 1, "text": "größer"}, {"step": 2, "text": "a\nb"}, {"step": 3, "text": "\ud800"}]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path / "metrics.jsonl")
    made.append(*ROWS)
    return made


def test_log_returns_the_rows_that_were_appended(log: Log) -> None:
    assert list(log.rows()) == ROWS
    assert list(Log(log.path).rows()) == ROWS


def test_log_mark_is_the_same_after_reopening(log: Log) -> None:
    assert Log(log.path).mark() == log.mark()
    assert log.mark()["bytes"] == log.path.stat().st_size


def test_log_prefix_is_verified_against_its_mark(log: Log) -> None:
    mark, data = log.mark(), log.path.read_bytes()
    log.append({"step": 4})
    assert log.lost_since(mark) is None
    assert Log(log.path.with_name("new.jsonl")).lost_since({"bytes": 0, "sha256": ""}) is None
    log.path.write_bytes(data[:-5])
    assert Log(log.path).lost_since(mark) == "metrics.jsonl lacks its last 5 bytes"
    log.path.write_bytes(data.replace(b"1", b"7", 1))
    assert Log(log.path).lost_since(mark) == "metrics.jsonl was changed"
    log.path.unlink()
    assert Log(log.path).lost_since(mark) == "metrics.jsonl is missing"


def test_log_reader_skips_an_incomplete_last_line(log: Log) -> None:
    with log.path.open("ab") as file:
        file.write('{"text": "ü'.encode()[:-1])
    assert list(read_rows(log.path)) == ROWS
    assert last_row(log.path) == ROWS[-1]


@pytest.mark.parametrize("line", [b"[1]\n", b"{\n", b"\xff\n", b"\n", b"[" * 100_000 + b"\n"])
def test_log_reader_names_a_damaged_line(log: Log, line: bytes) -> None:
    with log.path.open("ab") as file:
        file.write(line)
    with pytest.raises(RunError, match=r"line 4 of .*metrics\.jsonl is damaged"):
        list(read_rows(log.path))


def test_log_row_ends_are_positions_in_bytes(log: Log) -> None:
    ends = [end for _, end in log.rows_with_ends()]
    data = log.path.read_bytes()
    assert [data[end - 1 : end] for end in ends] == [b"\n"] * 3 and ends[-1] == len(data)


def test_log_keep_replaces_the_rows_and_the_mark(log: Log) -> None:
    log.keep(ROWS[:1])
    assert list(log.rows()) == ROWS[:1] and Log(log.path).mark() == log.mark()
    inode = os.stat(log.path).st_ino
    log.keep(ROWS[:1])  # the same contents are not written again
    assert os.stat(log.path).st_ino == inode
    log.append(ROWS[1])
    assert list(log.rows()) == ROWS[:2] and Log(log.path).mark() == log.mark()


def test_log_append_that_fails_leaves_no_incomplete_line(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.path.read_bytes()

    class Full:
        def __init__(self, path: Path) -> None:
            self.file = path.open("ab", buffering=0)
            self.left = 5

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            if not self.left:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.left])
            self.left = 0
            return written

    opened = Full(log.path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_, **__: opened)
        with pytest.raises(NotWritten, match="No space left"):
            log.append({"step": 4})
    assert log.path.read_bytes() == before
    log.append({"step": 4})
    assert json.loads(log.path.read_bytes().splitlines()[-1]) == {"step": 4}


def test_last_row_of_an_empty_or_missing_log_is_none(tmp_path: Path) -> None:
    assert last_row(tmp_path / "a.jsonl") is None
    (tmp_path / "a.jsonl").write_text('{"step": 1')
    assert last_row(tmp_path / "a.jsonl") is None
