"""One HTTP request with a deadline and a size limit, to a server that may misbehave.

`http.client` applies its timeout to each read of a socket, so a server that sends a byte now and
then never times out. Here a request has one deadline, from the first packet to the last byte, and
a maximum size, whatever the response's headers say. Redirects are not followed and no proxy is
used: the address is the server's own.
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

#: Seconds in which a server must accept a connection.
CONNECT_SECONDS = 10.0
#: Bytes allowed for status line and headers, beside the body.
_HEADER_BYTES = 2**17
_READ_BYTES = 2**16


class RequestClock:
    """Time and waiting; tests replace it."""

    def now(self) -> float:
        """Seconds since an arbitrary moment."""
        return time.monotonic()

    def wait(self, seconds: float, ended: threading.Event) -> None:
        """Wait so many seconds, or until `ended` is set."""
        ended.wait(seconds)


class NoResponse(Exception):
    """There was no complete response; the text states the reason.

    Attributes:
        late: True if the deadline passed; False if the connection failed.
    """

    def __init__(self, message: str, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class ResponseTooLarge(Exception):
    """The response exceeds its size limit."""


@dataclass(frozen=True)
class Response:
    """A complete response. `retry_after` is that header in seconds, 0 without one."""

    status: int
    body: bytes
    location: str
    retry_after: float

    def without(self, secret: str) -> Response:
        """The same response with a secret text replaced by asterisks."""
        body = self.body.replace(secret.encode(), b"***")
        return replace(self, body=body, location=self.location.replace(secret, "***"))


@dataclass(frozen=True)
class Transport:
    """Requests to one address. Thread-safe: each request has its own connection.

    Args:
        address: http://host:port, with the path prefix of the server if it has one.
        key: API key, sent as a bearer token; it is left out of `repr`.
        clock: time for deadlines.
    """

    address: str
    key: str | None = field(default=None, repr=False)
    clock: RequestClock = field(default_factory=RequestClock, repr=False)
    _open: set[socket.socket] = field(default_factory=set, repr=False, compare=False)
    ended: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def cancel_requests(self) -> None:
        """Abort every request that is under way, and refuse new ones."""
        self.ended.set()
        for connected in tuple(self._open):
            with suppress(OSError):  # it has just been closed
                connected.shutdown(socket.SHUT_RDWR)

    def call(
        self, method: str, path: str, body: bytes | None, seconds: float, most_bytes: int
    ) -> Response:
        """Send one request.

        Args:
            method: of HTTP.
            path: below the address.
            body: of the request; None for none.
            seconds: deadline from the start of the request to the last byte of the response.
            most_bytes: size limit of the response's body.

        Raises:
            NoResponse: the server cannot be reached, is late, hangs up or does not speak HTTP.
            ResponseTooLarge: the body is longer than `most_bytes`.
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
        except NoResponse:
            raise
        except TimeoutError as error:
            raise NoResponse(f"no whole answer within {seconds:g} s", late=True) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self.ended.is_set():
                raise NoResponse("it was told to end") from error
            raise NoResponse(_reason(error)) from error
        finally:
            connection.close()
        return Response(
            answer.status,
            text,
            answer.getheader("Location") or "",
            _seconds(answer.getheader("Retry-After")),
        )

    @contextmanager
    def _connected(self, connection: http.client.HTTPConnection) -> Iterator[socket.socket]:
        """Connect; within the block `cancel_requests` can abort the connection."""
        if self.ended.is_set():
            raise NoResponse("it was told to end")
        try:
            connection.connect()
        except TimeoutError as error:
            raise NoResponse(f"no connection within {connection.timeout:g} s") from error
        # The connection drops its own reference once it has read the headers.
        connected: socket.socket = connection.sock
        self._open.add(connected)
        try:
            if self.ended.is_set():
                raise NoResponse("it was told to end")
            yield connected
        finally:
            self._open.discard(connected)


def _read(answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """The body, read in pieces: memory is not allocated for a length that headers only claim."""
    if answer.length is not None and answer.length > most_bytes:
        raise ResponseTooLarge
    text = bytearray()
    while piece := answer.read(_READ_BYTES):
        text += piece
        if len(text) > most_bytes:
            raise ResponseTooLarge
    if answer.length:
        raise NoResponse(f"its answer was cut off, {answer.length} bytes before its end")
    return bytes(text)


def _within(clock: RequestClock, deadline: float, most_bytes: int) -> Any:
    """A `response_class` for `http.client` that reads its socket within the limits."""

    def answer(connected: socket.socket, *given: Any, **named: Any) -> http.client.HTTPResponse:
        source = _Bounded(connected, clock, deadline, most_bytes)
        return http.client.HTTPResponse(source, *given, **named)  # type: ignore[arg-type]

    return answer


class _Bounded(io.RawIOBase):
    """The bytes that a socket receives until a deadline, up to a number of bytes."""

    def __init__(
        self, connected: socket.socket, clock: RequestClock, deadline: float, most_bytes: int
    ) -> None:
        self._socket = connected
        # Keeps the socket open after the connection has dropped its reference.
        self._source = connected.makefile("rb", buffering=0)
        self._clock = clock
        self._deadline = deadline
        self._left = most_bytes

    def makefile(self, mode: str) -> io.BufferedReader:
        """This reader with a buffer; `http.client` calls it as a socket's method."""
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
            raise ResponseTooLarge
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


def _reason(error: Exception) -> str:
    """The failure of a connection, in words for people."""
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
    """A Retry-After header in seconds; 0 if it is missing or holds a date."""
    return float(header) if header is not None and header.isdecimal() and len(header) < 9 else 0.0
