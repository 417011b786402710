"""What `train.shard` means for a number of devices, and what it does not allow."""

from __future__ import annotations

from opsd_cli.config.schema import Config
from opsd_cli.errors import OpsdError, UsageError
from opsd_cli.planning import memory_plan
from opsd_cli.planning.model_shape import configured_shape, teacher_shape
from opsd_cli.planning.planned_device import planned_device
from opsd_cli.planning.trainer_sampling import trainer_samples


def with_shard_decided(config: Config, devices: int) -> Config:
    """The config with `none` or `full` in place of `auto`.

    Full if a device cannot hold the base whole beside the rest of the run, and if backend and
    rollout engine allow it. The problems do not matter, so that a dry run and the run decide alike:
    prompts count as long ones. None where the memory cannot be computed.
    """
    if config.train.shard != "auto":
        return config
    needed = devices > 1 and _is_possible(config) and not _fits(config, devices)
    train = config.train.model_copy(update={"shard": "full" if needed else "none"})
    return config.model_copy(update={"train": train})


def require_teacher_engine(config: Config, size: int) -> None:
    """Check that a base divided over so many ranks need not sample a teacher's analyses.

    Raises:
        UsageError: it would, and the ranks cannot: their sequences end at different times.
    """
    from backends.parallel.sharding import is_sharded

    if not is_sharded(config, size) or not trainer_samples(config):
        return
    if config.teacher.weights == "ema":
        whose, change = "teacher.weights=ema", "teacher.weights=initial or live"
    else:
        whose, change = (
            "the adapter that the run starts from as the teacher",
            "teacher.weights=live",
        )
    raise UsageError(
        f"train.shard=full: {whose} samples its analyses (teacher.reason_first) with the trainer's "
        "own weights, and no device would have them all",
        f"set teacher.reason_first=false, {change}, or train.shard=none",
    )


def _is_possible(config: Config) -> bool:
    from backends.parallel.sharding import obstacle

    if trainer_samples(config):
        return False
    try:
        return obstacle(config, planned_device(config).backend) is None
    except OpsdError:
        return False


def _fits(config: Config, devices: int) -> bool:
    """True if a device of so many can hold the whole base, or if that is not known."""
    try:
        device, shape = planned_device(config, devices), configured_shape(config)
        teacher = teacher_shape(config, device.memory)
    except OpsdError:
        return True
    if shape is None or device.limit is None:
        return True
    prompts = memory_plan.estimated(config, [])
    plan = memory_plan.plan(config, shape, prompts, device.memory, device.on_cpu, teacher=teacher)
    return plan.peak <= device.limit
