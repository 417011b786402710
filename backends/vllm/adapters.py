"""Adapters for a vLLM server: one folder for each version of the weights, loaded by name."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path

from safetensors import SafetensorError

from backends.interface import Policy
from backends.vllm.client import PARTING_SECONDS, Client
from backends.vllm.responses import InvalidResponse
from backends.vllm.server_errors import RequestRefused, ServerUnavailable
from opsd_cli.errors import TrainingError

#: How often in a row a server may lose the adapter it was given, with no rollout in between.
_MOST_LOSSES = 3


class AdapterLost(Exception):
    """The server no longer has the adapter: somebody else restarted it."""


class Adapters:
    """The versions of one run's adapter.

    Args:
        client: of the server.
        policy: learns, and writes its adapter.
        folder: where it is written; the server must see it by this path.
    """

    def __init__(self, client: Client, policy: Policy, folder: Path) -> None:
        self._client = client
        self._policy = policy
        self._folder = folder
        # Unique to this process: server and folder may hold adapters of other runs, or of this
        # run before it was killed.
        self._prefix = f"opsd-{uuid.uuid4().hex[:8]}"
        self._version = 0
        self._loaded: str | None = None
        #: How often in a row the server has lost the adapter.
        self.losses = 0

    def changed(self) -> None:
        """Note that the weights have changed: `newest` then writes another version."""
        self._version += 1

    def newest(self) -> str:
        """Write the current weights if that was not done, and give the name of their folder.

        Raises:
            TrainingError: the folder cannot be written.
        """
        name = f"{self._prefix}-v{self._version:06d}"
        folder = self._folder / name
        if folder.exists():
            return name
        try:
            folder.mkdir(parents=True)
            self._policy.save_adapter(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)  # an incomplete adapter must not be loaded
            reason = getattr(error, "strerror", None) or error
            raise TrainingError(
                f"the adapter cannot be written to {folder} for the vLLM server: {reason}",
                "make room there, or name another folder in rollouts.vllm.adapters",
            ) from error
        return name

    def includes(self, name: str) -> bool:
        """True if a model of that name is one of these adapters, and not the base model."""
        return name.startswith(f"{self._prefix}-v")

    def offer(self, name: str) -> None:
        """Load an adapter into the server if it is not loaded, and unload the one before it.

        Raises:
            ServerUnavailable: the server does not answer.
            UsageError: it refuses the adapter.
        """
        if self._loaded == name:
            return
        try:
            self._client.load_adapter(name, str(self._folder / name))
        except RequestRefused as error:
            # An earlier request whose answer was lost may have loaded it: that name has no other
            # weights.
            if "already" not in str(error):
                refused = self._client.user_error(error, "take the adapter")
                if error.status in (400, 404, 422):
                    refused.hint = (
                        "it needs --enable-lora, a --max-lora-rank of at least lora.rank, "
                        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and to see "
                        f"{self._folder} under that path (rollouts.vllm.adapters names another)"
                    )
                raise refused from error
        before, self._loaded = self._loaded, name
        if before is not None:
            self._unload(self._client, before)
            shutil.rmtree(self._folder / before, ignore_errors=True)

    def forgotten(self) -> None:
        """Note that the server has no adapter: it has ended or was restarted."""
        self._loaded = None

    def lost(self, error: AdapterLost) -> None:
        """Have the adapter loaded again at the next `offer`.

        Raises:
            TrainingError: the server has lost it too often in a row.
        """
        self.forgotten()
        self.losses += 1
        if self.losses > _MOST_LOSSES:
            raise TrainingError(
                f"the vLLM server at {self._client.url} has lost the adapter {self.losses} times "
                f"in a row: {error}",
                "one address must be one server: several behind it do not share adapters",
            ) from error

    def close(self, served: bool) -> None:
        """Delete every version, and unload the last one if the server keeps running."""
        if served and self._loaded is not None:
            self._unload(self._client.copy(), self._loaded, PARTING_SECONDS)
        for folder in self._folder.glob(f"{self._prefix}-v*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _unload(self, client: Client, name: str, seconds: float | None = None) -> None:
        # A server that has ended, or has no such adapter, is as good as one that unloaded it.
        with contextlib.suppress(RequestRefused, ServerUnavailable, InvalidResponse):
            client.unload_adapter(name, seconds)
