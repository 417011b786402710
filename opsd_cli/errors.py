"""The exception tree: every error that opsd raises on purpose.

Each class has an exit code, so that scripts can tell a wrong request from an incapable machine.
Each instance has a message, one line that says what happened, and a hint, one line that says what
to do; the command line prints these two lines and no traceback unless `--debug` is set.

The module imports nothing of ours: `python -m opsd_cli` would otherwise create two copies of each
class, and `except` would miss one of them.
"""

from __future__ import annotations

from collections.abc import Sequence


class OpsdError(Exception):
    """Base of every error that opsd raises on purpose; exit code 1.

    Args:
        message: what happened, in one line that names the file, key or value.
        hint: what the user can do, in one line; can be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OpsdError):
    """The request is wrong: a flag, a combination of flags, an argument; exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file, preset or `--set` is invalid.

    Attributes:
        others: further mistakes that were found at the same time.
        located: True if it is about one key.
    """

    def __init__(self, message: str, hint: str = "", located: bool = False) -> None:
        super().__init__(message, hint)
        self.others: tuple[ConfigError, ...] = ()
        self.located = located

    @classmethod
    def of(cls, mistakes: Sequence[ConfigError]) -> ConfigError:
        """The first mistake with the others beside it; a traceback shows them as notes."""
        first, *others = mistakes
        first.others = tuple(others)
        for other in others:
            first.add_note(other.message)
        return first

    def all(self) -> list[ConfigError]:
        """This mistake and the others, each alone."""
        return [self, *self.others]


class DataError(UsageError):
    """A problem file or data set cannot be read, or has no usable problems."""


class DataNotAtHand(DataError):
    """A hub data set is not in the cache, and the hub cannot be reached."""


class ModelError(UsageError):
    """A model, tokenizer or adapter cannot be loaded or does not fit the request."""


class ModelNotAtHand(ModelError):
    """A hub model is not in the cache, and the hub cannot be reached."""


class RunError(UsageError):
    """A run directory does not allow the request: used, locked, changed, incomplete."""


class NotWritten(RunError):
    """The operating system refused to write a file, mostly on a full disk; exit code 1, since the
    request was right."""

    exit_code = 1


class BackendMissing(OpsdError):
    """The requested backend does not exist or cannot work on this machine; exit code 3."""

    exit_code = 3


class GateNotMet(OpsdError):
    """A threshold that the user set was not reached; the work finished; exit code 4."""

    exit_code = 4


class PreflightFailed(OpsdError):
    """The reference solution does not make the teacher more accurate than the student."""


class TrainingError(OpsdError):
    """Training cannot continue: a loss that is not finite, memory exhausted, a collapsed policy."""


class Interrupted(OpsdError):
    """The user interrupted the work (Ctrl-C); finished work is kept; exit code 130."""

    exit_code = 130
