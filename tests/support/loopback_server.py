"""An HTTP server on loopback for the stand-ins of other servers."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class LoopbackServer:
    """Serves until the `with` block ends.

    Args:
        handler: answers the requests; its `owner` is this object.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.requests: list[str] = []
        owned = type("Handler", (handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), owned)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class SilentHandler(BaseHTTPRequestHandler):
    """Answers in HTTP/1.1, and logs nothing: the output of the tests is no server log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *values: Any) -> None:
        """Ignored."""
