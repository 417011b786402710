"""One HTTP request to a server that may do anything: every wait and every body has a bound.

`http.client` gives each read of a socket its own timeout, so that a server which sends a byte now
and then is never late. Here a request has one deadline, from the first packet to the last byte,
and a greatest size, whatever the answer's headers say. Redirects are not followed, and no proxy is
asked: the address is the server's own.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

#: How long a server may take to accept a connection.
CONNECT_SECONDS = 10.0
#: Room for status line and headers beside the body.
_HEADER_BYTES = 2**17
_PIECE = 2**16


class Clock:
    """The time, and waiting. Tests have one of their own."""

    def now(self) -> float:
        """Seconds, from any start."""
        return time.monotonic()

    def wait(self, seconds: float, ended: threading.Event) -> None:
        """Let so many seconds pass, or fewer where `ended` is set meanwhile."""
        ended.wait(seconds)


class NoAnswer(Exception):
    """There was no whole answer; the text says why.

    Attributes:
        late: whether the deadline passed, rather than the connection failed.
    """

    def __init__(self, message: str, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Oversized(Exception):
    """The answer is longer than it can rightly be."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. `retry_after` is the header's seconds, where it gives some."""

    status: int
    body: bytes
    location: str
    retry_after: float

    def without(self, secret: str) -> Answer:
        """The same, with asterisks for a text that must not be shown."""
        body = self.body.replace(secret.encode(), b"***")
        return replace(self, body=body, location=self.location.replace(secret, "***"))


@dataclass(frozen=True)
class Transport:
    """Requests to one address. Safe to use from several threads: each has its own connection.

    Args:
        address: http://host:port, with a path where the server stands under one.
        key: sent as a bearer token where there is one. It is not part of the text form.
    """

    address: str
    key: str | None = field(default=None, repr=False)
    clock: Clock = field(default_factory=Clock, repr=False)
    _open: set[socket.socket] = field(default_factory=set, repr=False, compare=False)
    ended: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def hang_up(self) -> None:
        """End every request that is under way, and let no other begin."""
        self.ended.set()
        for connected in tuple(self._open):
            with suppress(OSError):  # it has just ended by itself
                connected.shutdown(socket.SHUT_RDWR)

    def call(
        self, method: str, path: str, body: bytes | None, seconds: float, most_bytes: int
    ) -> Answer:
        """Ask once.

        Args:
            seconds: from the start of the request to the last byte of its answer.
            most_bytes: of the answer's body.

        Raises:
            NoAnswer: the server cannot be reached, is late, hangs up or does not speak HTTP.
            Oversized: the body is longer than `most_bytes`.
        """
        deadline = self.clock.now() + seconds
        parts = urlsplit(self.address)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=min(CONNECT_SECONDS, seconds))
        connection.response_class = _within(self.clock, deadline, most_bytes + _HEADER_BYTES)
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            with self._connected(connection) as connected:
                connected.settimeout(max(deadline - self.clock.now(), 1e-3))
                connection.request(method, parts.path.rstrip("/") + path, body, headers)
                answer = connection.getresponse()
                text = _read(answer, most_bytes)
        except NoAnswer:
            raise
        except TimeoutError as error:
            raise NoAnswer(f"no whole answer within {seconds:g} s", late=True) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self.ended.is_set():
                raise NoAnswer("it was told to end") from error
            raise NoAnswer(_reason(error)) from error
        finally:
            connection.close()
        return Answer(
            answer.status,
            text,
            answer.getheader("Location") or "",
            _seconds(answer.getheader("Retry-After")),
        )

    @contextmanager
    def _connected(self, connection: http.client.HTTPConnection) -> Iterator[socket.socket]:
        """Connect, within reach of `hang_up` for as long as the block lasts."""
        if self.ended.is_set():
            raise NoAnswer("it was told to end")
        try:
            connection.connect()
        except TimeoutError as error:
            raise NoAnswer(f"no connection within {connection.timeout:g} s") from error
        # Kept apart, since the connection lets go of its socket once the headers are in.
        connected: socket.socket = connection.sock
        self._open.add(connected)
        try:
            if self.ended.is_set():
                raise NoAnswer("it was told to end")
            yield connected
        finally:
            self._open.discard(connected)


def _read(answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """The body, in pieces: a length that the headers claim is no reason to set memory aside."""
    if answer.length is not None and answer.length > most_bytes:
        raise Oversized
    text = bytearray()
    while piece := answer.read(_PIECE):
        text += piece
        if len(text) > most_bytes:
            raise Oversized
    if answer.length:
        raise NoAnswer(f"its answer was cut off, {answer.length} bytes before its end")
    return bytes(text)


def _within(clock: Clock, deadline: float, most_bytes: int) -> Any:
    """A class of answers, as `http.client` calls it, that read their socket within bounds."""

    def answer(connected: socket.socket, *given: Any, **named: Any) -> http.client.HTTPResponse:
        source = _Bounded(connected, clock, deadline, most_bytes)
        return http.client.HTTPResponse(source, *given, **named)  # type: ignore[arg-type]

    return answer


class _Bounded(io.RawIOBase):
    """What a socket receives, until a deadline and up to a number of bytes."""

    def __init__(
        self, connected: socket.socket, clock: Clock, deadline: float, most_bytes: int
    ) -> None:
        self._socket = connected
        # Keeps the socket open after the connection has let go of it.
        self._source = connected.makefile("rb", buffering=0)
        self._clock = clock
        self._deadline = deadline
        self._left = most_bytes

    def makefile(self, mode: str) -> io.BufferedReader:
        """Itself, buffered, as `http.client` asks a socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - self._clock.now()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        count: int | None = self._source.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise Oversized
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


def _reason(error: Exception) -> str:
    """What went wrong with a connection, in words."""
    if isinstance(error, http.client.IncompleteRead):
        return "its answer was cut off"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it hung up without an answer"
    if isinstance(error, UnicodeError):
        return "its name cannot be looked up"
    if isinstance(error, http.client.HTTPException | ValueError):
        return f"it does not speak HTTP ({type(error).__name__})"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _seconds(header: str | None) -> float:
    """A Retry-After header that counts seconds; 0 where it is missing or gives a date."""
    return float(header) if header is not None and header.isdecimal() and len(header) < 9 else 0.0
