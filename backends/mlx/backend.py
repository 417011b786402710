"""MLX in the registry: Apple silicon, and Linux for tests only.

mlx is imported only to query the machine's capabilities or to load a model. On Linux it runs on the
CPU, about twenty times slower than PyTorch, so it is used there for tests only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backends.interface import Capability, Device
from backends.mlx.traits import MLX
from opsd_cli.errors import BackendMissing
from opsd_cli.machine import memory_limit

if TYPE_CHECKING:
    from backends.mlx.exchange import MlxExchange
    from backends.mlx.policy import MlxPolicy
    from opsd_cli.config.schema import Config

_PACKAGES = {"mlx": "mlx.core", "mlx-lm": "mlx_lm", "transformers": "transformers"}


class MlxBackend:
    """MLX on the default device: the GPU of Apple silicon, or a CPU."""

    name = "mlx"
    traits = MLX

    def capability(self) -> Capability:
        versions, problem = _packages()
        if problem:
            return Capability(False, problem, self.traits.install_command, versions)
        import mlx.core as mx

        device = mx.device_info()
        if mx.default_device() == mx.cpu:
            detail = f"MLX {versions['mlx']} on the CPU, for trying and testing"
            limit = memory_limit()
            cpu = Device("the CPU", limit)
            return Capability(True, detail, versions=versions, memory=limit, each_device=(cpu,))
        name = device.get("device_name", platform.machine())
        whole = int(device.get("memory_size", 0))
        detail = f"{name}, {whole / 2**30:.0f} GiB, MLX {versions['mlx']}"
        # What macOS lets the GPU wire down; more than that is paged out between steps.
        usable = int(device.get("max_recommended_working_set_size", 0)) or None
        return Capability(
            True, detail, versions=versions, memory=usable, on_cpu=False,
            each_device=(Device(str(name), whole or None),),
        )  # fmt: skip

    def load(self, config: Config, trainable: bool) -> MlxPolicy:
        found = self.capability()
        if not found.available:
            raise BackendMissing(f"backend 'mlx' cannot run here: {found.detail}", found.hint)
        from backends.mlx.policy import load_policy

        return load_policy(config, trainable)

    def exchange(
        self, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]
    ) -> MlxExchange:
        from backends.mlx.exchange import MlxExchange

        return MlxExchange(rank, size, host, broadcast)


def _packages() -> tuple[dict[str, str], str]:
    """Versions of the installed packages, and the problem with the first that fails (or "")."""
    versions: dict[str, str] = {}
    for package, module in _PACKAGES.items():
        try:
            importlib.import_module(module)
            versions[package] = importlib.metadata.version(package)
        except ImportError as error:
            # On Linux mlx without one of its extras imports nothing and names a library.
            missing = package if error.name in (None, module, module.partition(".")[0]) else None
            return versions, f"{missing or error.name} is not installed or cannot be imported"
        except Exception as error:  # a broken binary may raise anything; capability never does
            return versions, f"{package} cannot be imported: {error}".splitlines()[0]
    return versions, ""
