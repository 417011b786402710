"""Append-only JSONL files that know how long they are and what they hold.

A run's logs are appended to between checkpoints, and a checkpoint counts on them: it records the
length and the digest of each (`Log.mark`), and resuming compares (`Log.lost_since`). Reading works
on bytes, so that a line cut inside a UTF-8 character is a line cut short like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from opsd_cli.errors import NotWritten, RunError

CHUNK = 1 << 20


class Log:
    """One JSONL file. Its length and digest are kept up to date by every append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size, self._digest = _read_to(path, None)

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Add lines and hand them to the operating system, all in one write.

        Raises:
            NotWritten: the system would not; the file is then as long as before.
        """
        data = b"".join(_line(row) for row in rows)
        try:
            with self.path.open("ab", buffering=0) as out:
                written = 0
                while written < len(data):
                    written += out.write(data[written:]) or 0
        except BaseException as error:  # Ctrl-C too: nothing may follow half a line
            self._cut_quietly()
            if isinstance(error, OSError):
                raise NotWritten(
                    f"cannot write to {self.path}: {error.strerror}",
                    "make room there, then go on with --resume",
                ) from error
            raise
        self._size += len(data)
        self._digest.update(data)

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        if self.path.exists():
            with self.path.open("rb") as log:
                os.fsync(log.fileno())

    def mark(self) -> dict[str, Any]:
        """Length in bytes and SHA-256 of all that was appended so far."""
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def lost_since(self, mark: Mapping[str, Any]) -> str | None:
        """What is missing of the file as it was marked, in words; None where all of it is there."""
        wanted = int(mark["bytes"])
        if not wanted:
            return None
        if not self.path.exists():
            return f"{self.path.name} is missing"
        if self._size < wanted:
            return f"{self.path.name} lacks its last {wanted - self._size:,} bytes"
        if _read_to(self.path, wanted)[1].hexdigest() != mark["sha256"]:
            return f"{self.path.name} was changed"
        return None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The whole lines; a last line cut short by a kill is left out."""
        return read_rows(self.path)

    def rows_with_ends(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The whole lines, each with the position in bytes at which it ends."""
        return _rows_with_ends(self.path)

    def keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the contents, whole or not at all; nothing is written where they are the same."""
        data = b"".join(_line(row) for row in rows)
        if not self.path.exists() or self.path.read_bytes() == data:
            return
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_bytes(data)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(self.path)
        self._size, self._digest = len(data), hashlib.sha256(data)

    def _cut_quietly(self) -> None:
        """Take back a write that failed half-way, where the system lets us."""
        try:
            if self.path.exists() and self.path.stat().st_size > self._size:
                os.truncate(self.path, self._size)
        except OSError:
            pass  # the line stays torn, which reading allows for


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL log; a last line cut short by a kill is left out.

    Raises:
        RunError: a whole line is not a JSON object.
    """
    return (row for row, _ in _rows_with_ends(path))


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
    """Line `number` of a log is not what was written."""
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


def _read_to(path: Path, end: int | None) -> tuple[int, Any]:
    """Length and SHA-256 of the first `end` bytes, of the whole file where `end` is None."""
    digest, size = hashlib.sha256(), 0
    if path.exists():
        with _open(path) as log:
            while chunk := log.read(CHUNK if end is None else min(CHUNK, end - size)):
                digest.update(chunk)
                size += len(chunk)
    return size, digest
