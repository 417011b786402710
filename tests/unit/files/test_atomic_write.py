"""Atomic writes: old or new contents after any failure, never half of either."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import NotWritten
from opsd_cli.files.atomic_write import (
    commit_staged,
    sha256_of,
    stage,
    staging_path,
    write_atomic,
)


def full_disk(*_: Any, **__: Any) -> int:
    raise OSError(28, "No space left on device")


def test_atomic_write_replaces_the_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("one", "größer"):
        write_atomic(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["write_text", "replace"])
def test_atomic_write_on_a_full_disk_keeps_the_old_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    monkeypatch.setattr(Path, call, full_disk)
    with pytest.raises(NotWritten, match=r"a\.json: No space left") as failed:
        write_atomic(path, "new")
    assert failed.value.exit_code == 1 and failed.value.hint
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_staged_contents_appear_on_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    stage(path, "staged")
    assert not path.exists() and staging_path(path).is_file()
    commit_staged(path)
    assert path.read_text() == "staged" and not staging_path(path).exists()


def test_commit_never_overwrites_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("there")
    stage(path, "staged")
    commit_staged(path)
    assert path.read_text() == "there"


def test_commit_without_a_staged_file_does_nothing(tmp_path: Path) -> None:
    commit_staged(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_digest_is_the_sha256_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"\x00" * 100_000).hexdigest()
