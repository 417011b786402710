"""Atomic writes, the lock of a directory, and errors that name their file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opsd_cli.errors import NotWritten, RunError
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.files.os_errors import naming


def test_atomic_write_replaces_the_contents_and_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text in ("{}", "é"):
        write_atomic(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(NotWritten, match=r"cannot write .*result\.json: No space left"):
            write_atomic(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_directory_lock_names_its_process_and_ends_with_it(tmp_path: Path) -> None:
    with (
        lock_directory(tmp_path),
        pytest.raises(RunError, match=rf"\(pid {os.getpid()}\) is using"),
    ):
        lock_directory(tmp_path)
    lock_directory(tmp_path).close()


def test_os_error_without_a_file_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, naming(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    # safetensors reports a full disk so
    with pytest.raises(OSError) as caught, naming(tmp_path / "x"):
        raise ValueError("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "x"))
