"""The registry of rollout engines: what samples the rollouts of a loaded policy.

This is the only list of the values of `rollouts.engine`. Nothing else compares an engine's name:
code that must know how an engine works asks its declared traits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from opsd_cli.lazy import load

if TYPE_CHECKING:
    from backends.interface import Policy
    from opsd_cli.config.schema import Config

#: The engine that is part of every backend.
BUILTIN = "builtin"

#: name -> "module:class"
ENGINES: dict[str, str] = {
    BUILTIN: "backends.rollout_engines:BuiltinEngine",
    "vllm": "backends.vllm.engine:VllmEngine",
}


class RolloutEngine(Protocol):
    """How rollouts are sampled. Its module imports nothing heavy at the top.

    Attributes:
        title: the engine's name for people.
        separate_from_trainer: True if it samples with a copy of the weights of its own. Its
            log-probabilities can then differ from the trainer's, which is measured and may be
            corrected, and it can sample while the trainer computes (`Prefetches`).
    """

    title: str
    separate_from_trainer: bool

    def require(self, config: Config) -> None:
        """Check what can be checked without a model or a server.

        Raises:
            UsageError, BackendMissing: the engine cannot be used.
        """

    def attached(
        self, config: Config, policy: Policy, folder: Path, tell: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[Policy]:
        """The policy with its rollouts sampled by this engine, until the context ends.

        Args:
            policy: trains, and samples what the engine cannot.
            folder: where the engine may keep files of its own.
            tell: receives one-line warnings for the user.

        Raises:
            UsageError, BackendMissing, TrainingError: the engine cannot be used.
        """


@runtime_checkable
class Plans(Protocol):
    """An engine that has something to say in a plan (`--dry-run`)."""

    def planned(self, config: Config) -> str:
        """What will sample the rollouts, in a few words: how many servers, and where."""


class BuiltinEngine:
    """The backend's own engine: it samples with the trainer's own weights."""

    title = "the backend's own engine"
    separate_from_trainer = False

    def require(self, config: Config) -> None:
        """See `RolloutEngine`; it is always there."""

    @contextlib.contextmanager
    def attached(
        self, config: Config, policy: Policy, folder: Path, tell: Callable[[str], None]
    ) -> Iterator[Policy]:
        """See `RolloutEngine`; the policy as it is."""
        yield policy


def get_engine(name: str) -> RolloutEngine:
    """An instance of the named engine.

    Raises:
        KeyError: no engine has that name; the config has checked it.
    """
    engine: RolloutEngine = load(ENGINES[name])()
    return engine


def samples_here(config: Config, teacher: bool) -> bool:
    """True if the trainer's own weights sample for a role, whatever the engine.

    An engine of its own gets the student's adapter. It has no file of a teacher that is a moving
    average, another model, or the adapter that the run started from.

    Args:
        teacher: the role.
    """
    if not get_engine(config.rollouts.engine).separate_from_trainer:
        return True
    weights = config.teacher.acting
    own = weights in ("ema", "model")
    return teacher and (own or (weights == "initial" and config.adapter is not None))


def planned_rollouts(config: Config) -> str | None:
    """What will sample a run's rollouts, for a plan; None if its engine says nothing."""
    engine = get_engine(config.rollouts.engine)
    return engine.planned(config) if isinstance(engine, Plans) else None
