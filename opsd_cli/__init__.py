"""On-policy self-distillation: a language model teaches itself to reason.

What is exported here is the public surface, and nothing else is promised: the functions do what the
commands `opsd train`, `opsd eval` and `opsd compare` do (docs/python.md shows them). Everything is
imported on first use, so that `import opsd_cli` loads nothing. The package is the half of opsd that
every backend shares; it imports neither torch nor mlx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsd_cli.api import compare, evaluate, load_policy, train
    from opsd_cli.config.schema import Config
    from opsd_cli.errors import (
        BackendMissing,
        ConfigError,
        DataError,
        DataNotAtHand,
        GateNotMet,
        Interrupted,
        ModelError,
        ModelNotAtHand,
        NotWritten,
        OpsdError,
        PreflightFailed,
        RunError,
        TrainingError,
        UsageError,
    )
    from opsd_cli.loading import load_config
    from opsd_cli.problems import Problem
    from opsd_cli.tracking.listener import Listener

__version__ = "0.1.0"

__all__ = [
    "BackendMissing",
    "Config",
    "ConfigError",
    "DataError",
    "DataNotAtHand",
    "GateNotMet",
    "Interrupted",
    "Listener",
    "ModelError",
    "ModelNotAtHand",
    "NotWritten",
    "OpsdError",
    "PreflightFailed",
    "Problem",
    "RunError",
    "TrainingError",
    "UsageError",
    "compare",
    "evaluate",
    "load_config",
    "load_policy",
    "train",
]

#: Where an exported name is defined; the errors are all in `opsd_cli.errors`.
_MODULES = {
    "Config": "opsd_cli.config.schema",
    "Listener": "opsd_cli.tracking.listener",
    "Problem": "opsd_cli.problems",
    "load_config": "opsd_cli.loading",
    **dict.fromkeys(("compare", "evaluate", "load_policy", "train"), "opsd_cli.api"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "opsd_cli.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
