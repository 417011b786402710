"""Errors of the operating system that know which file they are about.

An `OSError` from opening a file names it; one from writing to it, when the disk fills up, does not,
and libraries that write files themselves wrap the error in a class of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_IN_WORDS = re.compile(r"\(os error (\d+)\)")


def os_error(error: BaseException) -> OSError | None:
    """The operating system's error that an exception is, or tells of; None where it is none.

    safetensors, written in Rust, tells of it as "No space left on device (os error 28)".
    """
    if isinstance(error, OSError):
        return error if error.errno is not None else None
    told = _IN_WORDS.search(str(error)) if isinstance(error, Exception) else None
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into an operating system's error that names none; others pass as they are."""
    try:
        yield
    except Exception as error:
        found = os_error(error)
        if found is None or found.filename is not None:
            raise
        found.filename = str(path)
        if found is error:
            raise
        raise found from error
