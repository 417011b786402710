"""Append-only JSONL logs that know their length and digest.

A run appends to its logs between checkpoints. Each checkpoint records every log's length in bytes
and SHA-256 (`Log.mark`), and resuming checks that this prefix is unchanged (`Log.lost_since`).
Lines are read as bytes, so a line cut inside a UTF-8 character counts as incomplete like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from opsd_cli.errors import NotWritten, RunError

#: Bytes read at a time for a digest.
CHUNK = 1 << 20
#: Bytes at the end of a log in which `last_row` looks for a line.
TAIL = 1 << 16


class Log:
    """One JSONL file; every append updates its length and digest in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size, self._digest = _digest_prefix(path, None)

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Append rows in one write, without waiting for the disk.

        Raises:
            NotWritten: the operating system refused; the file keeps its previous length.
        """
        data = b"".join(_line(row) for row in rows)
        try:
            with self.path.open("ab", buffering=0) as out:
                written = 0
                while written < len(data):
                    written += out.write(data[written:]) or 0
        except BaseException as error:  # Ctrl-C too: the next append must not follow half a line
            self._undo_append()
            if isinstance(error, OSError):
                raise NotWritten(
                    f"cannot write to {self.path}: {error.strerror}",
                    "make room there, then go on with --resume",
                ) from error
            raise
        self._size += len(data)
        self._digest.update(data)

    def sync(self) -> None:
        """Block until everything that was appended is on the disk."""
        if self.path.exists():
            with self.path.open("rb") as log:
                os.fsync(log.fileno())

    def mark(self) -> dict[str, Any]:
        """Length in bytes and SHA-256 of the file so far."""
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def lost_since(self, mark: Mapping[str, Any]) -> str | None:
        """What of the marked prefix is missing or changed, in words; None if it is unchanged."""
        wanted = int(mark["bytes"])
        if not wanted:
            return None
        if not self.path.exists():
            return f"{self.path.name} is missing"
        if self._size < wanted:
            return f"{self.path.name} lacks its last {wanted - self._size:,} bytes"
        if _digest_prefix(self.path, wanted)[1].hexdigest() != mark["sha256"]:
            return f"{self.path.name} was changed"
        return None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The complete rows; see `read_rows`."""
        return read_rows(self.path)

    def rows_with_ends(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The complete rows, each with the position in bytes at which its line ends."""
        return _rows_with_ends(self.path)

    def keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Atomically replace the contents by these rows; writes nothing if they are the same."""
        data = b"".join(_line(row) for row in rows)
        if not self.path.exists() or self.path.read_bytes() == data:
            return
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_bytes(data)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(self.path)
        self._size, self._digest = len(data), hashlib.sha256(data)

    def _undo_append(self) -> None:
        """Truncate the file to its length before a failed append, if the system allows it."""
        try:
            if self.path.exists() and self.path.stat().st_size > self._size:
                os.truncate(self.path, self._size)
        except OSError:
            pass  # the incomplete line stays, and reading skips it


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a JSONL log; an incomplete last line, left by a kill, is skipped.

    Raises:
        RunError: a complete line is not a JSON object.
    """
    return (row for row, _ in _rows_with_ends(path))


def last_row(path: Path) -> dict[str, Any] | None:
    """The last complete row, read from the file's end; None if there is none."""
    if not path.exists():
        return None
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - TAIL))
        lines = log.read().split(b"\n")
    complete = [line for line in lines[:-1] if line.startswith(b"{") and line.endswith(b"}")]
    return json.loads(complete[-1]) if complete else None


def _rows_with_ends(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    if not path.exists():
        return
    end = 0
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise damaged(path, number) from error
            if not isinstance(row, dict):
                raise damaged(path, number)
            yield row, end


def damaged(path: Path, number: int) -> RunError:
    """The error for line `number` of a log, counted from 1, that is not what was written."""
    return RunError(
        f"line {number:,} of {path} is damaged",
        "bring the file back from a copy, or start again with another --out",
    )


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold
        return (json.dumps(row) + "\n").encode("ascii")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RunError(
            f"cannot read {path}: {error.strerror}", "see to it that it is a file, and readable"
        ) from error


def _digest_prefix(path: Path, end: int | None) -> tuple[int, Any]:
    """Length in bytes and SHA-256 of the first `end` bytes; of the whole file if `end` is None."""
    digest, size = hashlib.sha256(), 0
    if path.exists():
        with _open(path) as log:
            while chunk := log.read(CHUNK if end is None else min(CHUNK, end - size)):
                digest.update(chunk)
                size += len(chunk)
    return size, digest
