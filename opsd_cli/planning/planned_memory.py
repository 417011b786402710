"""The memory plan of a run on the device it is for, with settings that fit where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import OpsdError
from opsd_cli.planning import memory_plan
from opsd_cli.planning.memory_plan import MemoryPlan, Prompts
from opsd_cli.planning.model_shape import configured_shape, teacher_shape
from opsd_cli.planning.planned_device import PlannedDevice, planned_device
from opsd_cli.planning.prompt_lengths import prompt_lengths
from opsd_cli.planning.sharding import with_shard_decided
from opsd_cli.planning.smaller_settings import nearest_that_fits
from opsd_cli.problems.sources import Splits
from opsd_cli.tracking.listener import Messages


@dataclass(frozen=True)
class UnknownMemory:
    """The memory cannot be computed.

    Attributes:
        reason: what is missing: the model's config.json, or the backend's declaration; None for an
            architecture that is not known.
    """

    reason: str | None = None


@dataclass(frozen=True)
class PlannedMemory:
    """What a run needs, and what its device has.

    Attributes:
        prompts: tokens of the longest prompts, as `prompt_lengths` gives them.
        devices: that share the run; the plan is for each of them.
        sharded: True if they divide the base among them.
        nearest: for a plan that exceeds the limit, new values by config key that bring it within;
            None if no combination does, and for a plan that fits.
    """

    device: PlannedDevice
    prompts: Prompts
    plan: MemoryPlan
    nearest: dict[str, Any] | None
    devices: int = 1
    sharded: bool = False

    @property
    def fits(self) -> bool | None:
        """True if the peak is within the device's limit; None if the limit is unknown."""
        return None if self.device.limit is None else self.plan.peak <= self.device.limit

    def as_dict(self) -> dict[str, Any]:
        """As `--dry-run --json` has it; sizes are bytes."""
        found = {
            "parts": self.plan.parts, "peak": self.plan.peak, "limit": self.device.limit,
            "devices": self.devices, "sharing": self.device.sharing,
            "shard": "full" if self.sharded else "none",
        }  # fmt: skip
        return found | ({"nearest": self.nearest} if self.fits is False else {})


def planned_memory(
    config: Config, splits: Splits | None, messages: Messages, devices: int = 1
) -> PlannedMemory | UnknownMemory:
    """The memory that a run of this config needs on each device.

    Args:
        splits: its problems; without them, long prompts are assumed.
        messages: gets a note if the device is an assumption.
        devices: that share the run.
    """
    from backends.parallel.sharding import is_sharded

    config = with_shard_decided(config, devices)
    try:
        device = planned_device(config, devices)
        if device.note:
            messages.note(device.note)
        shape, teacher = configured_shape(config), teacher_shape(config, device.memory)
    except OpsdError as error:
        return UnknownMemory(error.message)
    if shape is None or (teacher is None and methods.teacher_model(config) is not None):
        return UnknownMemory()
    prompts = prompt_lengths(config, splits.train.problems if splits else [])

    parts = devices if is_sharded(config, devices) else 1

    def planned(changed: Config) -> MemoryPlan:
        return memory_plan.plan(
            changed, shape, prompts, device.memory, device.on_cpu, parts, teacher
        )

    found, nearest = planned(config), None
    if device.limit is not None and found.peak > device.limit:
        nearest = nearest_that_fits(config, device.limit, lambda c: planned(c).peak)
    return PlannedMemory(device, prompts, found, nearest, devices, parts > 1)
