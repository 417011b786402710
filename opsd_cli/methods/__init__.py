"""The registry of learning methods: a name stands for a class that is imported when it is used.

All methods share the sampler, the grader, the prompts, the optimiser, the ledger and the evaluator.
A method is one file here with one class derived from `opsd_cli.methods.base.Method`, which turns a
step's graded rollouts into loss batches, and one line below. Nothing else compares its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsd_cli.errors import ConfigError
from opsd_cli.lazy import load

if TYPE_CHECKING:
    from opsd_cli.config.schema import Config
    from opsd_cli.methods.base import Method

#: name -> "module:class".
METHODS: dict[str, str] = {
    "opsd": "opsd_cli.methods.opsd:Opsd",
    "grpo": "opsd_cli.methods.grpo:Grpo",
    "sft": "opsd_cli.methods.sft:Sft",
    "hybrid": "opsd_cli.methods.hybrid:Hybrid",
}


def method_class(name: str) -> type[Method]:
    """The class of a method, whose attributes say what it needs.

    Raises:
        ConfigError: there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}", f"choose from {', '.join(METHODS)}")
    found: type[Method] = load(METHODS[name])
    return found


def get(config: Config) -> Method:
    """The method that a config names; raises `ConfigError` as `method_class`."""
    return method_class(config.method)(config)


def teacher_model(config: Config) -> Config | None:
    """The config that loads `teacher.model`; None without one, or where no teacher is asked."""
    return config.teacher_config if get(config).needs.teacher else None
