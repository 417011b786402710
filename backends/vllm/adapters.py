"""Adapters on their way to a server: a folder for each version of the weights, loaded by name."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path

from safetensors import SafetensorError

from backends.interface import Policy
from backends.vllm.answers import Unusable
from backends.vllm.client import PARTING_SECONDS, Client
from backends.vllm.trouble import Refused, ServerGone
from opsd_cli.errors import TrainingError

#: How often in a row a server may have lost the adapter it was given, with no rollout between.
_LOSSES = 3


class AdapterLost(Exception):
    """The server no longer knows the adapter: it was restarted behind our back."""


class Adapters:
    """The versions of one run's adapter.

    Args:
        policy: learns, and writes its adapter.
        folder: where it is written; the server must see it by this path.
    """

    def __init__(self, client: Client, policy: Policy, folder: Path) -> None:
        self._client = client
        self._policy = policy
        self._folder = folder
        # No other run's, nor this one's before it was killed: a server or a folder may hold both.
        self._prefix = f"opsd-{uuid.uuid4().hex[:8]}"
        self._version = 0
        self._loaded: str | None = None
        #: How often in a row the server had lost it.
        self.losses = 0

    def changed(self) -> None:
        """The weights are others from now on."""
        self._version += 1

    def newest(self) -> str:
        """The name of the weights as they are, which are in the folder of that name.

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
            shutil.rmtree(folder, ignore_errors=True)  # half of it must not be handed over
            reason = getattr(error, "strerror", None) or error
            raise TrainingError(
                f"the adapter cannot be written to {folder} for the vLLM server: {reason}",
                "make room there, or name another folder in rollouts.vllm.adapters",
            ) from error
        return name

    def offer(self, name: str) -> None:
        """Load an adapter into the server if it is not there, and drop the one before it.

        Raises:
            ServerGone: the server does not answer.
            UsageError: it does not take the adapter.
        """
        if self._loaded == name:
            return
        try:
            self._client.load_adapter(name, str(self._folder / name))
        except Refused as error:
            # After a lost answer it may be there: the name is of these weights and no others.
            if "already" not in str(error):
                refused = self._client.explained(error, "take the adapter")
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
        """The server has none of them: it is gone, or was restarted."""
        self._loaded = None

    def lost(self, error: AdapterLost) -> None:
        """Have it loaded again.

        Raises:
            TrainingError: it was lost too often.
        """
        self.forgotten()
        self.losses += 1
        if self.losses > _LOSSES:
            raise TrainingError(
                f"the vLLM server at {self._client.url} has lost the adapter {self.losses} times "
                f"in a row: {error}",
                "one address must be one server: several behind it do not share adapters",
            ) from error

    def close(self, served: bool) -> None:
        """Drop them all; from the server too, where it goes on."""
        if served and self._loaded is not None:
            self._unload(self._client.afresh(), self._loaded, PARTING_SECONDS)
        for folder in self._folder.glob(f"{self._prefix}-v*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _unload(self, client: Client, name: str, seconds: float | None = None) -> None:
        with contextlib.suppress(Refused, ServerGone, Unusable):  # it is gone, which was the wish
            client.unload_adapter(name, seconds)
