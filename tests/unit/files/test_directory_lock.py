"""The advisory lock of a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opsd_cli.errors import RunError
from opsd_cli.files.directory_lock import LOCK, lock_directory


def test_directory_lock_refuses_a_second_holder_with_the_process_id(tmp_path: Path) -> None:
    with lock_directory(tmp_path):
        with pytest.raises(RunError, match=rf"pid {os.getpid()}\) is using") as refused:
            lock_directory(tmp_path)
        assert f"kill {os.getpid()}" in refused.value.hint


def test_directory_lock_is_free_after_it_is_closed(tmp_path: Path) -> None:
    lock_directory(tmp_path).close()
    lock_directory(tmp_path).close()
    assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_directory_lock_refuses_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write to"):
        lock_directory(tmp_path / "missing")
