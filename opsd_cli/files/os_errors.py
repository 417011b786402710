"""Operating system errors that name the file they are about.

An `OSError` from opening a file names it; one from writing, on a full disk for example, does not,
and libraries that write files themselves wrap the error in an exception class of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def os_error(error: BaseException) -> OSError | None:
    """The operating system error that an exception is or reports; None if it is neither.

    safetensors, written in Rust, reports one as "No space left on device (os error 28)".
    """
    if isinstance(error, OSError):
        return error if error.errno is not None else None
    found = _RUST_OS_ERROR.search(str(error)) if isinstance(error, Exception) else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an operating system error that names no file; other errors pass unchanged."""
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
