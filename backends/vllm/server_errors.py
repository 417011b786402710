"""Failures of a vLLM server, and the error for the user: one line that names the server, a hint."""

from __future__ import annotations

from opsd_cli.errors import TrainingError, UsageError

KEPT = "everything up to the newest checkpoint is kept (opsd train --resume)"


class ServerUnavailable(Exception):
    """The server does not answer, or keeps answering with a temporary failure.

    Attributes:
        status: HTTP status of its answer; None if there was none.
        late: True if the deadline passed.
        retry_after: seconds that the server asks to wait.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        late: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.late = late
        self.retry_after = retry_after


class RequestRefused(Exception):
    """The server answered with a permanent refusal; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def user_error(
    error: ServerUnavailable | RequestRefused, url: str, has_key: bool, what: str
) -> UsageError | TrainingError:
    """The error for the user.

    Args:
        error: the failure.
        url: of the server.
        has_key: True if requests carry an API key.
        what: what the server was asked to do, as in "it does not ...".
    """
    server = f"the vLLM server at {url}"
    if isinstance(error, RequestRefused):
        if error.status in (401, 403):
            asks = "refuses the API key" if has_key else "asks for an API key"
            return UsageError(
                f"{server} {asks}: {error}",
                "set the environment variable VLLM_API_KEY to the key that it was started with",
            )
        if 300 <= error.status < 400:
            return UsageError(
                f"{server} {error}", "set rollouts.vllm.url to the address of the server itself"
            )
        return UsageError(f"{server} does not {what}: {error}", "look at the server's log")
    if error.late:
        return TrainingError(
            f"{server} does not answer: {error}",
            f"raise rollouts.vllm.request_seconds if it is only slow; {KEPT}",
        )
    does = "does not answer" if error.status is None else "goes on failing"
    return TrainingError(f"{server} {does}: {error}", f"start it again; {KEPT}")
