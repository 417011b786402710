"""The adapter's files for vLLM servers: one folder for each version of the weights."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from safetensors import SafetensorError

from backends.interface import Policy
from opsd_cli.errors import TrainingError


class AdapterFiles:
    """The versions of one run's adapter, written once each, whatever the number of servers.

    Args:
        policy: learns, and writes its adapter.
        folder: where it is written; the servers must see it by this path.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self._policy = policy
        self.folder = folder
        # Unique to this process: servers and folder may hold adapters of other runs, or of this
        # run before it was killed.
        self._prefix = f"opsd-{uuid.uuid4().hex[:8]}"
        self._version = 0

    def changed(self) -> None:
        """Note that the weights have changed: `newest` then writes another version."""
        self._version += 1

    def newest(self) -> str:
        """Write the current weights if that was not done, and give the name of their folder.

        Raises:
            TrainingError: the folder cannot be written.
        """
        name = f"{self._prefix}-v{self._version:06d}"
        folder = self.folder / name
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

    def delete_before(self, name: str) -> None:
        """Delete the versions before this one, which no server needs any more."""
        for folder in self.folder.glob(f"{self._prefix}-v*"):
            if folder.name < name:  # the number in it has leading zeros
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete every version."""
        for folder in self.folder.glob(f"{self._prefix}-v*"):
            shutil.rmtree(folder, ignore_errors=True)
