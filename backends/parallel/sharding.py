"""A base that the ranks divide among them (`train.shard`): what it needs, and when it is there."""

from __future__ import annotations

import backends
from backends.rollout_engines import ENGINES, get_engine
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError


def is_sharded(config: Config, size: int) -> bool:
    """True if so many ranks divide the base; on one, `full` is the whole base."""
    return config.train.shard == "full" and size > 1


def obstacle(config: Config, backend: str) -> UsageError | None:
    """Why this config's base cannot be divided over several ranks; None if it can.

    Args:
        backend: the name of the one that is chosen.
    """
    if not backends.traits_of(backend).shards:
        able = [name for name in backends.BACKENDS if backends.traits_of(name).shards]
        return UsageError(
            f"train.shard=full: backend {backend!r} cannot divide a base over devices",
            f"use {' or '.join(able)}, or train.shard=none",
        )
    if config.teacher.model is not None:
        return UsageError(
            "train.shard=full divides the student's base alone, and teacher.model names a second "
            "model, which each device would have to hold whole",
            "leave teacher.model out, or set train.shard=none",
        )
    if not get_engine(config.rollouts.engine).separate_from_trainer:
        others = [name for name in ENGINES if get_engine(name).separate_from_trainer]
        return UsageError(
            f"train.shard=full: rollouts.engine={config.rollouts.engine} samples with the "
            "trainer's own weights, and no device would have them all",
            f"set rollouts.engine={' or '.join(others)}, or train.shard=none",
        )
    return None


def require_shardable(config: Config, size: int) -> None:
    """Check that so many ranks can hold the base as `train.shard` says.

    Raises:
        UsageError: it is full, and the backend or the rollout engine does not allow it.
    """
    if not is_sharded(config, size):
        return
    error = obstacle(config, backends.choose(config.backend).name)
    if error is not None:
        raise error
