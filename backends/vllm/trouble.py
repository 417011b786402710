"""What goes wrong with a server, and how the user is told: one line that names it, and a hint."""

from __future__ import annotations

from opsd_cli.errors import TrainingError, UsageError

KEPT = "everything up to the newest checkpoint is kept (opsd train --resume)"


class ServerGone(Exception):
    """The server does not answer, or goes on answering that it cannot.

    Attributes:
        status: HTTP's, where it did answer.
        late: whether it took too long.
        retry_after: seconds that it asks for.
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


class Refused(Exception):
    """The server answered that it will not; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def explained(
    error: ServerGone | Refused, url: str, has_key: bool, what: str
) -> UsageError | TrainingError:
    """The error for the user.

    Args:
        url: the server.
        has_key: whether it was sent an API key.
        what: what it was to do, as in "it does not ...".
    """
    server = f"the vLLM server at {url}"
    if isinstance(error, Refused):
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
