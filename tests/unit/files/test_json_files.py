"""Reading JSON objects that may be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.files.json_files import read_object


def test_json_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert read_object(tmp_path / "a.json") == {"a": [1, "ü"]}


@pytest.mark.parametrize(
    "data", [b"", b'{"a":', b"[1]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000]
)
def test_json_that_is_no_object_reads_as_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    assert read_object(tmp_path / "a.json") is None


def test_json_file_that_is_missing_reads_as_none(tmp_path: Path) -> None:
    assert read_object(tmp_path / "a.json") is None
    assert read_object(tmp_path) is None
