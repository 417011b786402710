"""One of the vLLM servers of a run: its process, its adapter, and what it has answered."""

from __future__ import annotations

import contextlib

import numpy as np

from backends.vllm.adapters import AdapterFiles
from backends.vllm.client import PARTING_SECONDS, Client
from backends.vllm.responses import InvalidResponse
from backends.vllm.server import Server
from backends.vllm.server_errors import RequestRefused, ServerUnavailable
from backends.vllm.serving import require_model
from backends.vllm.sleep_mode import SleepMode
from opsd_cli.config.schema import Config
from opsd_cli.errors import TrainingError

#: How often in a row a server may lose the adapter it was given, with no rollout in between.
_MOST_LOSSES = 3
#: How often a server that was given up may return without completing a rollout, or at all if it has
#: let a deadline pass: it holds its requests up for that long each time.
_MOST_RETURNS = 3


class AdapterLost(Exception):
    """The server no longer has the adapter: somebody else restarted it."""


class Replica:
    """A server with a copy of the base model, which gets each version of the adapter.

    Args:
        client: of the server.
        server: the process, where this run started it.
        files: the adapter's folders.
        sleeps: `rollouts.vllm.sleep`.

    Attributes:
        base: the server's name for the base model.
        version: of its vLLM.
        losses: how often in a row it has lost the adapter.
        restarts: how often it was started again.
        lost: True if it is given up.
        returns: how often it was used again after that, with no rollout in between.
        late: True if it has let a request's deadline pass.
        base_N: its log-probabilities of the canary with the base model; None before it was asked.
        answer_N: the same with the adapter that is loaded.
    """

    def __init__(
        self, client: Client, server: Server | None, files: AdapterFiles, sleeps: bool
    ) -> None:
        self.client = client
        self.server = server
        self.sleep_mode = SleepMode(client, server, sleeps)
        self.base = ""
        self.version = ""
        self.losses = 0
        self.restarts = 0
        self.lost = False
        self.returns = 0
        self.late = False
        self.base_N: np.ndarray | None = None
        self.answer_N: np.ndarray | None = None
        self._files = files
        self._loaded: str | None = None

    @property
    def may_return(self) -> bool:
        """True if a server that was given up may be used again: one at an address."""
        return self.server is None and self.returns < _MOST_RETURNS

    def start(self) -> None:
        """Start the process, or wait for the server at the address.

        Raises:
            UsageError, BackendMissing, TrainingError: there is no server.
        """
        if self.server is not None:
            self.server.start()
        else:
            self.client.require_alive()

    def identify(self, config: Config) -> None:
        """Check that the server can serve this run, and learn its version and its model's name.

        Raises:
            UsageError: it cannot.
            TrainingError: it does not answer.
        """
        self.version = self.client.require_new_enough()
        self.base = require_model(self.client, config)

    def offer(self, name: str) -> None:
        """Load an adapter if it is not loaded, and unload the one before it.

        Raises:
            ServerUnavailable: the server does not answer.
            UsageError: it refuses the adapter.
        """
        if self._loaded == name:
            return
        self.answer_N = None
        folder = self._files.folder
        try:
            self.client.load_adapter(name, str(folder / name))
        except RequestRefused as error:
            # An earlier request whose answer was lost may have loaded it: that name has no other
            # weights.
            if "already" not in str(error):
                refused = self.client.user_error(error, "take the adapter")
                if error.status in (400, 404, 422):
                    refused.hint = (
                        "it needs --enable-lora, a --max-lora-rank of at least lora.rank, "
                        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and to see "
                        f"{folder} under that path (rollouts.vllm.adapters names another)"
                    )
                raise refused from error
        before, self._loaded = self._loaded, name
        if before is not None:
            self._unload(self.client, before)

    def forget_adapter(self) -> None:
        """Note that the server has no adapter, which is loaded again at the next `offer`."""
        self._loaded = None
        self.answer_N = None

    def restarted(self) -> None:
        """Note that the server is a new process: awake, with the base model alone."""
        self.forget_adapter()
        self.base_N = None
        self.sleep_mode.restarted()

    def lose_adapter(self, error: AdapterLost) -> None:
        """Have the adapter loaded again at the next `offer`.

        Raises:
            TrainingError: the server has lost it too often in a row.
        """
        self.forget_adapter()
        self.losses += 1
        if self.losses > _MOST_LOSSES:
            raise TrainingError(
                f"the vLLM server at {self.client.url} has lost the adapter {self.losses} times "
                f"in a row: {error}",
                "one address must be one server: several behind it do not share adapters",
            ) from error

    def completed(self) -> None:
        """Note that it has completed a rollout with its adapter."""
        self.losses = 0
        if not self.late:
            self.returns = 0

    def close(self) -> None:
        """Cancel its requests, then end the server, or unload the adapter of one that goes on."""
        self.client.cancel_requests()
        if self.server is not None:
            self.server.end()
        elif self._loaded is not None and not self.lost:
            self._unload(self.client.copy(), self._loaded, PARTING_SECONDS)

    def _unload(self, client: Client, name: str, seconds: float | None = None) -> None:
        # A server that has ended, or has no such adapter, is as good as one that unloaded it.
        with contextlib.suppress(RequestRefused, ServerUnavailable, InvalidResponse):
            client.unload_adapter(name, seconds)
