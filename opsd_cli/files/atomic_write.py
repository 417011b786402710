"""Atomic replacement of text files: after a kill a file holds its old contents or its new ones.

The text is written to a staging file in the same directory, synced, and renamed over the target. A
caller that must make two files appear together stages the first (`stage`), writes the second
(`write_atomic`) and then commits the first (`commit_staged`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from opsd_cli.errors import NotWritten


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's contents atomically, as UTF-8.

    Raises:
        NotWritten: the operating system refused; the file is unchanged.
    """
    stage(path, text)
    with _staging_errors(path):
        staging_path(path).replace(path)


def stage(path: Path, text: str) -> None:
    """Write and sync the staging file of `path`, which `commit_staged` renames into place.

    Raises:
        NotWritten: the operating system refused; the file is unchanged.
    """
    with _staging_errors(path):
        staging_path(path).write_text(text, encoding="utf-8")
        fsync_path(staging_path(path))


def commit_staged(path: Path) -> None:
    """Rename a file's staging file into place if there is one; never overwrites the file."""
    if staging_path(path).exists() and not path.exists():
        staging_path(path).replace(path)


@contextlib.contextmanager
def _staging_errors(path: Path) -> Iterator[None]:
    """Delete the staging file on any error, and turn an `OSError` into `NotWritten`."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            staging_path(path).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NotWritten(
                f"cannot write {path}: {error.strerror}", "make room there, or write elsewhere"
            ) from error
        raise


def staging_path(path: Path) -> Path:
    """The file beside `path` that is written first and then renamed to it."""
    return path.with_name(f".{path.name}.partial")


def fsync_path(path: Path) -> None:
    """Block until a file's contents, or a directory's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems refuse to sync directories
            raise
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
