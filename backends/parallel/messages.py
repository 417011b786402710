"""What rank 0 and the workers say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hello:
    """The first message of a worker."""

    rank: int
    host: str
    process: int


@dataclass(frozen=True)
class Call:
    """A method to be called on a worker."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Value:
    """A value that rank 0 broadcasts during a call."""

    value: Any


@dataclass(frozen=True)
class Cancel:
    """The current call is to be abandoned."""


@dataclass(frozen=True)
class Close:
    """There will be no more calls."""


@dataclass(frozen=True)
class Partial:
    """A part of a call's result, or news of its progress."""

    value: Any


@dataclass(frozen=True)
class Done:
    """A call's result, and the worker's CPU seconds so far."""

    value: Any
    cpu_seconds: float


@dataclass(frozen=True)
class Failed:
    """A call's error: its class if it is one of opsd's, message, hint, and traceback."""

    kind: str
    message: str
    hint: str
    trace: str


@dataclass(frozen=True)
class Lost:
    """A connection has ended: put into rank 0's queue by its own thread."""


@dataclass(frozen=True)
class Ping:
    """Asks a worker whether its process still runs."""


@dataclass(frozen=True)
class Pong:
    """The answer, of the thread that reads: also amid a computation."""
