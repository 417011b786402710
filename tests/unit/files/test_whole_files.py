"""Files that are replaced whole or not at all, and the lock of a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opsd_cli.errors import NotWritten, RunError
from opsd_cli.files.os_errors import naming
from opsd_cli.files.whole_files import hold, write_whole


def test_whole_file_replaces_the_contents_and_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text in ("{}", "é"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_whole_file_that_cannot_be_written_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_whole(path, "before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(NotWritten, match=r"cannot write .*result\.json: No space left"):
            write_whole(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_directory_lock_names_its_process_and_ends_with_it(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(RunError, match=rf"\(pid {os.getpid()}\) is using"):
        hold(tmp_path)
    hold(tmp_path).close()


def test_os_error_without_a_file_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, naming(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    # safetensors reports a full disk so
    with pytest.raises(OSError) as caught, naming(tmp_path / "x"):
        raise ValueError("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "x"))
