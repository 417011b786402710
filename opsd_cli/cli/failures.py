"""What went wrong outside of `opsd`, in a line and a hint: disks, permissions, memory, encodings.

Errors that the code foresees are `OpsdError`s already. These here can come out of any line, so they
are explained once, where the command ends; what is left over is a mistake in `opsd` itself.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Sequence
from typing import Any

from opsd_cli.errors import OpsdError, UsageError
from opsd_cli.files.os_errors import os_error
from opsd_cli.printable import shortened

_ELSEWHERE = "write elsewhere (another --out), or copy it to where you may write"
_PATH = "check the path"
#: errno -> whether the request was wrong, the line with {path} in it, and the hint.
_SYSTEM: dict[int, tuple[bool, str, str]] = {
    errno.ENOSPC: (
        False,
        "no space left on the disk to write {path}",
        "free some space, or write elsewhere (another --out); a run that has a checkpoint goes on "
        "with --resume",
    ),
    errno.EROFS: (True, "cannot write {path}: the file system is read-only", _ELSEWHERE),
    errno.EACCES: (True, "no permission for {path}", f"check who owns it; {_ELSEWHERE}"),
    errno.EPERM: (True, "{path}: the system does not permit that", _ELSEWHERE),
    errno.EMFILE: (False, "too many files are open, {path} is one more", "try `ulimit -n 4096`"),
    errno.ENFILE: (False, "the system has too many files open", "end other programs"),
    errno.ENAMETOOLONG: (True, "the name is too long: {path}", "shorten it; 255 bytes will do"),
    errno.ENOENT: (True, "there is no {path}", _PATH),
    errno.ENOTDIR: (True, "a part of {path} is a file, not a directory", _PATH),
    errno.EISDIR: (True, "{path} is a directory, not a file", _PATH),
    errno.EEXIST: (True, "{path} exists already", "give another name"),
    errno.ENOTEMPTY: (True, "{path} is not empty", "give another name"),
    errno.ELOOP: (True, "{path} is a link that leads to itself", _PATH),
    errno.EIO: (False, "the disk failed at {path}", "check the disk and its cables"),
    errno.EFBIG: (False, "{path} is too large for its file system", "write elsewhere"),
}
_SYSTEM[errno.EDQUOT] = (False, "the disk quota is used up: cannot write {path}",
                         _SYSTEM[errno.ENOSPC][2])  # fmt: skip
#: A longer path is shown with its middle left out.
_LONGEST_PATH = 160
_MEMORY = (
    "memory is exhausted",
    "`opsd train --dry-run` says what a run needs and what makes it smaller; close other programs",
)


def explained(error: BaseException) -> OpsdError | None:
    """The error as a line and a hint; None for one that only a mistake in `opsd` explains."""
    if isinstance(error, OpsdError):
        return error
    if isinstance(error, MemoryError):
        return OpsdError(*_MEMORY)
    if isinstance(error, RecursionError):
        return UsageError(
            "a value is nested too deeply to be read", "flatten it; --debug shows where it was met"
        )
    if isinstance(error, UnicodeDecodeError):
        return UsageError(
            f"text that was read is not {error.encoding.upper()}: byte "
            f"0x{error.object[error.start]:02x} at position {error.start}",
            "save the file in UTF-8; --debug shows which it was",
        )
    if isinstance(error, UnicodeError):
        return UsageError(
            f"text that cannot be written: {_one_line(error)}",
            "take out half characters (surrogates), and set PYTHONUTF8=1; --debug shows where",
        )
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's
        return UsageError("a path begins with ~ and a user who has no home here", "write it out")
    return _of_the_system(error)


def _of_the_system(error: BaseException) -> OpsdError | None:
    found = os_error(error)
    if found is None:
        # Libraries raise it with a sentence of their own.
        return OpsdError(_one_line(error), "run again with --debug") if _told(error) else None
    if found.errno == errno.ENOMEM:
        return OpsdError(*_MEMORY)
    path = _path(found.filename)
    wrong, line, hint = _SYSTEM.get(
        found.errno or 0,
        (
            False,
            f"{(found.strerror or 'the system refused').lower()}: {{path}}",
            "run with --debug",
        ),
    )
    return (UsageError if wrong else OpsdError)(line.replace("{path}", path), hint)


def _told(error: BaseException) -> bool:
    return isinstance(error, OSError) and bool(str(error).strip())


def _path(name: Any) -> str:
    if name is None or isinstance(name, int):
        return "a file"
    return shortened(os.fsdecode(name), _LONGEST_PATH) or "''"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def require_text(arguments: Sequence[str]) -> None:
    """Refuse arguments whose bytes are no text: no config, report or JSON could hold them.

    Raises:
        UsageError: an argument is not valid UTF-8.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the argument {argument!r} is not valid UTF-8",
                "type it in UTF-8; rename a file or directory whose name is not",
            ) from None


def reader_left() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    if not hasattr(select, "poll"):  # Windows
        return True
    for stream in (sys.stdout, sys.stderr):
        try:
            asked = select.poll()
            asked.register(stream.fileno(), 0)
        except (OSError, ValueError, AttributeError):
            continue
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
            return True
    return False


def write_what_can_be() -> None:
    """Have both streams write characters that their encoding lacks as escapes, not fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
