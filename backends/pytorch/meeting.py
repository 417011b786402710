"""How the processes that a launcher started find rank 0: by torch.distributed's key-value store.

torchrun runs the store itself, at MASTER_ADDR:MASTER_PORT. Under `srun` and MPI launchers these two
variables must be set, and rank 0 runs it.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from backends.shared.placement import Placement
from opsd_cli.errors import BackendMissing

#: For every process to start.
TIMEOUT = timedelta(seconds=300)
_NAME = "opsd/control"


class Meeting:
    """The store that the processes of a run share.

    Args:
        where: this process.

    Raises:
        BackendMissing: MASTER_ADDR and MASTER_PORT are not set, or nothing answers there.
    """

    def __init__(self, where: Placement) -> None:
        master, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
        if not master or not port.isdecimal():
            raise BackendMissing(
                f"{where.size} processes were started by {where.launcher}, and MASTER_ADDR and "
                "MASTER_PORT do not say where they meet",
                "export MASTER_ADDR=<the first machine> MASTER_PORT=29400 before the launcher",
            )
        self._master = master
        by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        try:
            self._store = dist.TCPStore(
                master, int(port), is_master=where.rank == 0 and not by_agent,
                timeout=TIMEOUT, wait_for_workers=False,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise BackendMissing(
                f"rank {where.rank} of {where.size} cannot meet the others at "
                f"{master}:{port}: {' '.join(str(error).split())}",
                "check MASTER_ADDR, MASTER_PORT and the firewall between the machines",
            ) from error
        # A restarted group of torchrun's must not read what the last one published.
        self._name = f"{_NAME}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"

    @property
    def host(self) -> str:
        """The address at which every process reaches rank 0, whose machine runs the store."""
        return self._master

    def publish(self, text: str) -> None:
        """Tell the others; only rank 0 does, once."""
        self._store.set(self._name, text)

    def published(self) -> str:
        """What rank 0 publishes, once it has."""
        try:
            found: bytes = self._store.get(self._name)
        except RuntimeError as error:
            raise BackendMissing(
                f"rank 0 did not answer within {TIMEOUT.seconds} seconds", "see its output"
            ) from error
        return found.decode()
