"""Which of the processes of a run this one is, by the variables of whoever started it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opsd_cli.errors import UsageError


@dataclass(frozen=True)
class Placement:
    """A process among those of a run.

    Attributes:
        rank: counted from 0, which is in charge.
        size: processes in all.
        local_rank: the same on this machine.
        local_size: processes on this machine.
        launcher: who started them, for people; empty for a process alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = ""


@dataclass(frozen=True)
class _Launcher:
    """Names of the variables that a launcher sets."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str


#: The first whose rank and size are set counts; the first line is of ranks that opsd starts itself.
#: Slurm's are those of a step, which `srun` sets: a batch script has SLURM_PROCID and SLURM_NTASKS
#: too, and is one process.
_LAUNCHERS = (
    _Launcher("opsd", "OPSD_RANK", "OPSD_RANKS", "OPSD_RANK", "OPSD_RANKS"),
    _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Launcher(
        "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
    _Launcher("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)  # fmt: skip


MLX_LAUNCH = "mlx.launch"
_here: Placement | None = None


def here() -> Placement:
    """This process's placement: as rank 0 of ranks that it started, else as `recognised`."""
    return _here or recognised()


def lead(ranks: int) -> None:
    """This process is rank 0 of so many on this machine; 1 undoes it."""
    global _here
    _here = Placement(0, ranks, 0, ranks, "opsd") if ranks > 1 else None


def recognised(environment: Mapping[str, str] | None = None) -> Placement:
    """This process's placement; a process alone where no launcher's variables are set.

    Raises:
        UsageError: a variable of a launcher is no number, or the rank is not below the size.
    """
    values = os.environ if environment is None else environment
    if values.get("MLX_RANK"):
        return _by_mlx(values)
    for launcher in _LAUNCHERS:
        if values.get(launcher.rank) and values.get(launcher.size):
            return _read(launcher, values)
    return Placement()


def _read(launcher: _Launcher, values: Mapping[str, str]) -> Placement:
    def number(name: str, default: int) -> int:
        text = values.get(name) or str(default)
        if not text.isdecimal():
            raise UsageError(
                f"{name} is {text!r}, not a number", f"{launcher.name} sets it; unset it otherwise"
            )
        return int(text)

    rank, size = number(launcher.rank, 0), number(launcher.size, 1)
    if rank >= size:
        raise UsageError(
            f"{launcher.rank} is {rank}, and {launcher.size} is {size}",
            f"ranks count from 0; {launcher.name} sets both",
        )
    if size == 1:
        return Placement()
    local_size = number(launcher.local_size, _on_this_node(values) or 1)
    local_rank = number(launcher.local_rank, rank % local_size)
    return Placement(rank, size, local_rank, local_size, launcher.name)


def _by_mlx(values: Mapping[str, str]) -> Placement:
    """The placement of a process of `mlx.launch`, which names the others in a file.

    Raises:
        UsageError: there is no such file.
    """
    name = values.get("MLX_HOSTFILE") or values.get("MLX_IBV_DEVICES") or ""
    try:
        text = Path(name).read_text(encoding="utf-8") if name else ""
        size = len(json.loads(text)) if text.strip() else 1
    except (OSError, ValueError) as error:
        raise UsageError(
            f"MLX_RANK is set, and {name} names no hosts: {error}", "mlx.launch sets both"
        ) from error
    rank = int(values["MLX_RANK"]) if values["MLX_RANK"].isdecimal() else size
    if rank >= size:
        raise UsageError(
            f"MLX_RANK is {values['MLX_RANK']}, of {size} processes", "mlx.launch sets it"
        )
    return Placement(rank, size, 0, 1, MLX_LAUNCH) if size > 1 else Placement()


def _on_this_node(values: Mapping[str, str]) -> int:
    """Tasks of a Slurm step on this node, from SLURM_STEP_TASKS_PER_NODE as in "4(x2),3"; or 0."""
    counts: list[int] = []
    for part in values.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        count, _, times = part.removesuffix(")").partition("(x")
        if count.isdecimal():
            counts += [int(count)] * (int(times) if times.isdecimal() else 1)
    node = values.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else 0
