"""Sleep mode: the server frees its GPU memory while the trainer uses the same GPU."""

from __future__ import annotations

from backends.vllm.client import Client
from backends.vllm.server import Server
from backends.vllm.server_errors import RequestRefused, ServerUnavailable


class SleepMode:
    """Whether the server sleeps, and the requests that change it.

    Args:
        client: of the server.
        server: the process, where this run started it.
        enabled: `rollouts.vllm.sleep`; without it the server is never put to sleep.
    """

    def __init__(self, client: Client, server: Server | None, enabled: bool) -> None:
        self._client = client
        self._server = server
        self._enabled = enabled
        # None: not known. A server that somebody else started may sleep since a killed run.
        self._asleep: bool | None = None if enabled and server is None else False

    def sleep(self) -> None:
        """Have the server free its memory, if the run asks for that.

        Raises:
            UsageError: it was not started with sleep mode.
            ServerUnavailable: it does not answer.
        """
        if not self._enabled or self._asleep:
            return
        try:
            self._client.sleep()
        except RequestRefused as error:
            refused = self._client.user_error(error, "go to sleep")
            if error.status in (404, 405):
                refused.hint = (
                    "start it with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, or leave "
                    "rollouts.vllm.sleep out"
                )
            raise refused from error
        except ServerUnavailable:
            if self._server is None or not self._server.dead:
                raise
            return  # it has ended and holds no memory; it is restarted for the next rollouts
        self._asleep = True

    def wake(self) -> None:
        """Have the server take its memory back.

        Raises:
            UsageError: it refuses.
            ServerUnavailable: it does not answer.
        """
        if self._asleep is False:
            return
        try:
            self._client.wake()
        except RequestRefused as error:
            raise self._client.user_error(error, "wake up") from error
        self._asleep = False

    def restarted(self) -> None:
        """The server is a new process, which is awake."""
        self._asleep = False
