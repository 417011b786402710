"""PyTorch's two backends: a CUDA GPU, and the CPU.

torch and its friends take seconds to import, so this module imports them only when asked what the
machine can do, or to load a model.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backends.interface import Capability, Device
from backends.pytorch.traits import CPU, CUDA
from backends.shared.placement import here
from opsd_cli.errors import BackendMissing
from opsd_cli.machine import available_cores, memory_limit

if TYPE_CHECKING:
    from backends.pytorch.exchange import TorchExchange
    from backends.pytorch.policy import TorchPolicy
    from opsd_cli.config.schema import Config

_PACKAGES = ("torch", "transformers", "peft", "safetensors")
#: Parameters below which a model gains nothing from a second thread.
_TINY_PARAMETERS = 5_000_000
_usual_threads: int | None = None
#: Environment variables that say how a thread of OpenMP waits: the standard's, GNU's and LLVM's.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


class CpuBackend:
    """PyTorch on the CPU: for trials, tests and the embedded model."""

    name = "cpu"
    traits = CPU

    def capability(self) -> Capability:
        versions, problem = _packages()
        if problem:
            return Capability(False, problem, self.traits.install_command, versions)
        import torch

        detail = f"PyTorch {versions['torch']} on {torch.get_num_threads()} CPU threads"
        limit = memory_limit()
        device = Device(f"CPU, {available_cores()} cores", limit)
        return Capability(True, detail, versions=versions, memory=limit, each_device=(device,))

    def load(self, config: Config, trainable: bool) -> TorchPolicy:
        return _load(self, config, trainable, "cpu")

    def exchange(
        self, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]
    ) -> TorchExchange:
        return _exchange(rank, size, host, broadcast, "cpu")


class CudaBackend:
    """PyTorch on a CUDA GPU: the first that is visible, or of several ranks each its own."""

    name = "cuda"
    traits = CUDA

    def capability(self) -> Capability:
        versions, problem = _packages()
        if problem:
            return Capability(False, problem, self.traits.install_command, versions)
        import torch

        if torch.version.cuda is None and torch.version.hip is None:
            return Capability(
                False,
                f"PyTorch {versions['torch']} is built for CPUs alone",
                "install a CUDA build of torch (pytorch.org), or use --backend cpu",
                versions,
            )
        if not torch.cuda.is_available():
            return Capability(
                False,
                f"PyTorch {versions['torch']} sees no GPU",
                "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --backend cpu",
                versions,
            )
        gpu = torch.cuda.get_device_properties(0)
        detail = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, PyTorch {versions['torch']}"
        return Capability(
            True,
            detail,
            versions=versions | {"cuda": str(torch.version.cuda)},
            memory=gpu.total_memory,
            on_cpu=False,
            devices=torch.cuda.device_count(),
            each_device=_gpus(),
        )

    def load(self, config: Config, trainable: bool) -> TorchPolicy:
        return _load(self, config, trainable, _own_gpu())

    def exchange(
        self, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]
    ) -> TorchExchange:
        return _exchange(rank, size, host, broadcast, _own_gpu())


def _gpus() -> tuple[Device, ...]:
    """The visible GPUs; a pair that reaches each other exchanges without the machine's memory."""
    import torch

    numbers = range(torch.cuda.device_count())
    found = []
    for number in numbers:
        gpu = torch.cuda.get_device_properties(number)
        others = [other for other in numbers if other != number]
        reaches = [o for o in others if torch.cuda.can_device_access_peer(number, o)]
        found.append(Device(gpu.name, gpu.total_memory, tuple(reaches)))
    return tuple(found)


def _own_gpu() -> str:
    """The GPU of this process's rank, made PyTorch's current one.

    Raises:
        BackendMissing: there is none.
    """
    import torch

    local, visible = here().local_rank, torch.cuda.device_count()
    if local >= visible:
        raise BackendMissing(
            f"rank {here().rank} needs GPU {local}, and {visible} are visible",
            "start as many ranks on a machine as it has GPUs",
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _load(
    backend: CpuBackend | CudaBackend, config: Config, trainable: bool, device: str
) -> TorchPolicy:
    found = backend.capability()
    if not found.available:
        raise BackendMissing(
            f"backend {backend.name!r} cannot run here: {found.detail}", found.hint
        )
    import torch

    from backends.pytorch.policy import load_policy

    policy = load_policy(config, torch.device(device), trainable)
    if device == "cpu":
        _choose_threads(policy.parameter_count + policy.teacher_parameters)
    return policy


def _exchange(
    rank: int, size: int, host: str, broadcast: Callable[[Any], Any], device: str
) -> TorchExchange:
    import torch

    from backends.pytorch.exchange import TorchExchange

    return TorchExchange(rank, size, host, broadcast, torch.device(device))


def _choose_threads(parameters: int) -> None:
    """One thread for a tiny model, as many as PyTorch chose at its import for others, but no more
    than a container's share of time, divided among the ranks on this machine.

    Measured on 2 cores with the embedded model (0.75M parameters): two threads took 0.8 of the
    time and 1.6 of the CPU time of one. A number set in OMP_NUM_THREADS is left alone.
    """
    global _usual_threads
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    if _usual_threads is None:
        _usual_threads = min(torch.get_num_threads(), available_cores())
    each = max(1, _usual_threads // here().local_size)
    torch.set_num_threads(1 if parameters < _TINY_PARAMETERS else each)


def _wait_without_spinning() -> None:
    """Let PyTorch's idle threads sleep; effective before the process first imports torch.

    By default they spin, as if no other process wanted their core. Measured on 2 cores with other
    work on them, small matrix products by two threads: 7 times the CPU time and 4 times the wall
    time of threads that sleep. Two training processes on those cores, beside other work of higher
    priority (`benchmarks/busy_cores.py --rounds 1`): 14.1 CPU seconds and 26.8 s with spinning
    threads, 1.9 CPU seconds and 14.6 s asleep. What the user has set is left alone.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _packages() -> tuple[dict[str, str], str]:
    """Versions of the installed packages, and the problem with the first that fails (or "")."""
    _wait_without_spinning()
    # Imported by peft where it is installed; it advises kernels that are not used here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
            versions[package] = importlib.metadata.version(package)
        except ImportError as error:
            return versions, f"{error.name or package} is not installed or cannot be imported"
        except Exception as error:  # a broken binary may raise anything; capability never does
            return versions, f"{package} cannot be imported: {error}".splitlines()[0]
    return versions, ""
