"""Operating system errors that name their file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from opsd_cli.files.os_errors import naming, os_error


def test_os_error_is_found_in_an_exception_of_rust() -> None:
    found = os_error(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert found is not None and found.errno == errno.ENOSPC
    assert os_error(RuntimeError("no such thing")) is None
    assert os_error(OSError("without a number")) is None


def test_os_error_without_a_file_is_given_one() -> None:
    for error in (OSError(28, "full"), RuntimeError("full (os error 28)")):
        with pytest.raises(OSError, match=r"full|No space") as caught, naming(Path("a.bin")):
            raise error
        assert caught.value.filename == "a.bin" and caught.value.errno == errno.ENOSPC


def test_os_error_that_names_a_file_and_other_errors_pass_unchanged() -> None:
    for error in (OSError(2, "missing", "b.bin"), ValueError("a")):
        with pytest.raises(type(error)) as caught, naming(Path("a.bin")):
            raise error
        assert caught.value is error and getattr(error, "filename", "b.bin") == "b.bin"
