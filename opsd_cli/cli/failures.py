"""How a command ends: errors as a line, a hint and an exit code; a broken pipe; Ctrl-C.

Errors that the code raises on purpose are `OpsdError`s. Errors of the system (disks, permissions,
memory, encodings) can come from any line, so they are explained here, at the end of the command.
Any other exception is a bug in `opsd`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from opsd_cli.errors import Interrupted, OpsdError, UsageError
from opsd_cli.files.os_errors import os_error
from opsd_cli.printable import shortened, visible_line

#: Characters of an error's line; what it quotes can be of any length.
LONGEST_LINE = 1000
#: Mistakes of a config that are shown; more are counted.
MOST_MISTAKES = 20
_ELSEWHERE = "write elsewhere (another --out), or copy it to where you may write"
_PATH = "check the path"
#: errno -> (True if the request was wrong, the message with {path}, the hint).
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
#: Characters of a path that is shown in full; the middle of a longer one is left out.
_LONGEST_PATH = 160
#: See `keep_streams`.
_kept: list[int] = []
_MEMORY = (
    "memory is exhausted",
    "`opsd train --dry-run` says what a run needs and what makes it smaller; close other programs",
)


def explained(error: BaseException) -> OpsdError | None:
    """The error as an `OpsdError`; None if it can only be a bug in `opsd`."""
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
        # Libraries raise OSError with a message and no errno.
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
    """Refuse arguments that are not valid UTF-8: no config, report or JSON could hold them.

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


def keep_streams() -> None:
    """Keep copies of the descriptors of standard output and error for `reader_left`.

    Rich answers a broken pipe, in the text of `--help` too, by putting the null device in the place
    of standard output: then the descriptor no longer tells that the reader has left.
    """
    while _kept:
        os.close(_kept.pop())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            _kept.append(os.dup(stream.fileno()))


def reader_left() -> bool:
    """True if standard output or error is a pipe whose reader has closed it."""
    if not hasattr(select, "poll"):  # Windows
        return True
    for descriptor in _kept:
        try:
            asked = select.poll()
            asked.register(descriptor, 0)
        except (OSError, ValueError):
            continue
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
            return True
    return False


def write_what_can_be() -> None:
    """Make both streams write characters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


# -- leaving -----------------------------------------------------------------------------------


def interrupted() -> NoReturn:
    """Exit after Ctrl-C or SIGTERM that no command has reported itself."""
    fail("interrupted", "what was finished and written is kept", Interrupted.exit_code)


def end_of_pipe(error: BrokenPipeError, debug: bool) -> NoReturn:
    """Exit without an error if the reader of the output closed it; else with the error."""
    if not reader_left():
        end(error, debug)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def end(error: Exception, debug: bool) -> NoReturn:
    """Exit with an exception's error line, hint and exit code."""
    usage = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # `opsd` alone: its help is printed already
        sys.exit(UsageError.exit_code)
    if usage is not None:  # Typer's error about the command line
        line = " ".join(usage().split())
        fail(line[:1].lower() + line[1:].rstrip("."), _where_help_is(error), 2)
    if isinstance(error.__cause__, KeyboardInterrupt):  # as some versions of Typer raise it
        interrupted()
    if debug:
        raise error
    known = explained(error)
    if known is not None:
        others = getattr(known, "others", ())
        for each in (known, *others[: MOST_MISTAKES - 1]):
            tell(each.message, each.hint)
        if len(others) >= MOST_MISTAKES:
            tell(f"and {len(others) - MOST_MISTAKES + 1} more mistakes", "")
        leave(known.exit_code)
    kind = type(error).__name__
    fail(f"unexpected {kind}: {error}", "run again with --debug", 1)


def _where_help_is(error: Exception) -> str:
    """A hint that names the command's `--help`, and `--set` for an unknown option."""
    context, words = getattr(error, "ctx", None), list[str]()
    if context is None:  # as for an option without its argument
        words = _command_words(sys.argv[1:])
    while context is not None and context.parent is not None:
        words.insert(0, context.info_name)
        context = context.parent
    hint = f"see `{' '.join(['opsd', *words, '--help'])}`"
    if words and type(error).__name__ == "NoSuchOption":
        from opsd_cli.cli.compare_options import INSTEAD, OF_EACH_METHOD

        option = getattr(error, "option_name", "")
        if words == ["compare"] and option in INSTEAD:
            return INSTEAD[option]
        if words == ["compare"] and option in OF_EACH_METHOD:
            return _for_methods(option, OF_EACH_METHOD[option])
        hint += "; settings are given as --set KEY=VALUE (`opsd presets keys` lists them)"
    return hint


def _for_methods(option: str, key: str) -> str:
    """How to give the methods of a comparison a value that `opsd train` has a flag for."""
    words = " ".join(sys.argv[1:]).replace("=", " ").split()
    after = words[words.index(option) + 1 :] if option in words else []
    value = after[0] if after and not after[0].startswith("--") else "VALUE"
    return (
        f"the methods have a {key} of their own: --set {key}={value} gives all of them this one, "
        f"--set methods.grpo.{key}={value} a single method"
    )


def _command_words(arguments: Sequence[str]) -> list[str]:
    """The words at the beginning of a command line that name a command, as in `presets copy`."""
    from typer.main import get_command

    from opsd_cli.cli.app import app

    node: Any = get_command(app)
    words: list[str] = []
    for word in arguments:
        node = getattr(node, "commands", {}).get(word)
        if node is None:
            break
        words.append(word)
    return words


def fail(message: str, hint: str, code: int) -> NoReturn:
    """Print an error line and a hint on standard error, and exit."""
    tell(message, hint)
    leave(code)


def tell(message: str, hint: str) -> None:
    """Print an error line and a hint on standard error.

    On a terminal they are wrapped between words; elsewhere each stays one line, for scripts.
    """
    lines = [f"error: {shortened(visible_line(message), LONGEST_LINE)}"]
    if hint:
        lines.append(f"hint: {shortened(visible_line(hint), LONGEST_LINE)}")
    if not sys.stderr.isatty():
        print("\n".join(lines), file=sys.stderr)
        return
    from opsd_cli.cli.terminal import PlainConsole

    console = PlainConsole(stderr=True)
    for line in lines:
        console.print(line)


def leave(code: int) -> NoReturn:
    """Exit; standard output is flushed here, so that Python does not fail once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    sys.exit(code)
