"""Every failure a person can meet, in one tree.

Each class fixes an exit code, so a script can tell "you typed it wrong" from "this machine cannot"
without reading English. Each instance carries one line that says what happened and one that says
what to do next; the command line prints those two lines and nothing else unless `--debug` is set.

The tree lives in a module of its own, importing nothing, because `python -m opsd_cli` would
otherwise create two copies of each class and `except` would miss one of them.
"""

from __future__ import annotations


class OpsdError(Exception):
    """Base of every error that `opsd` raises on purpose; exit code 1.

    Args:
        message: what happened, one line, naming the offending thing.
        hint: what the reader can do about it, one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OpsdError):
    """The request itself is wrong: a flag, a combination of flags, an argument."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file, preset or `--set` that cannot be understood."""


class DataError(UsageError):
    """A problem file or data set that cannot be read, or holds nothing usable."""


class DataNotAtHand(DataError):
    """A hub data set that is not in the cache, while the hub cannot be asked."""


class ModelError(UsageError):
    """A model, tokenizer or adapter that cannot be loaded or does not fit the request."""


class ModelNotAtHand(ModelError):
    """A hub model that is not in the cache, while the hub cannot be asked."""


class RunError(UsageError):
    """A run directory in a state that forbids the request: used, locked, changed, incomplete."""


class NotWritten(RunError):
    """A file of a run that the system would not write: a full disk, mostly. The request was right,
    so it exits with 1."""

    exit_code = 1


class BackendMissing(OpsdError):
    """The backend asked for does not exist or cannot work on this machine."""

    exit_code = 3


class GateNotMet(OpsdError):
    """A threshold the user set was not reached; the work itself finished."""

    exit_code = 4


class PreflightFailed(OpsdError):
    """The teacher gains nothing from the reference, so there is nothing to distil."""


class TrainingError(OpsdError):
    """Training cannot go on: a loss that is not finite, memory exhausted, a collapsed policy."""


class Interrupted(OpsdError):
    """The user stopped the work (Ctrl-C); what was finished is kept."""

    exit_code = 130
