"""The backend and device that a memory plan is for, also where the backend cannot run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import backends
from backends.interface import Capability
from backends.shared.placement import here
from backends.traits import MemoryTraits
from opsd_cli.config.schema import Config
from opsd_cli.errors import BackendMissing
from opsd_cli.machine import memory_limit


@dataclass(frozen=True)
class PlannedDevice:
    """What a memory plan is for.

    Attributes:
        backend: its name.
        memory: what it declares for memory plans.
        limit: bytes that a process of the run may fill; None if unknown.
        on_cpu: True if it computes on a CPU, where `train.dtype` auto means float32.
        note: why the device is an assumption, one line; empty if the backend runs here.
        sharing: processes of the run that share the memory of one machine, each with `limit`.
    """

    backend: str
    memory: MemoryTraits
    limit: int | None
    on_cpu: bool
    note: str = ""
    sharing: int = 1


def planned_device(config: Config, devices: int = 1) -> PlannedDevice:
    """The device that `config.backend` has here, or an assumption where the backend is missing.

    With `auto` and no backend at all, the plan is for the one that installing opsd brings, on this
    machine's memory. A backend that was named is meant for another machine: its needs can be
    planned, but not whether they fit.

    Processes that compute on a CPU share the memory of their machine: each has its part of it.

    Args:
        devices: that share the run; all of this machine unless a launcher has started this process,
            which then says how many are here.

    Raises:
        BackendMissing: the backend's module cannot be imported, so its traits are unknown.
    """
    device, where = _alone(config), here()
    sharing = min(devices, where.local_size) if where.size > 1 else devices
    if not device.on_cpu or sharing == 1:
        return device
    limit = None if device.limit is None else device.limit // sharing
    return replace(device, limit=limit, sharing=sharing)


def _alone(config: Config) -> PlannedDevice:
    """The device of a run of one process."""
    try:
        name = backends.choose(config.backend).name
        found = backends.get(name).capability()
        return _device(name, found)
    except BackendMissing as error:
        if config.backend == backends.AUTO:
            name = backends.default_without_packages()
            return _device(name, memory=memory_limit(), note=f"{error.message}: planned for {name}")
        note = f"{error.message}: planned for one that has it"
        return _device(config.backend, note=note)


def _device(
    name: str, found: Capability | None = None, memory: int | None = None, note: str = ""
) -> PlannedDevice:
    traits = backends.traits_of(name)
    if found is not None:
        return PlannedDevice(name, traits.memory, found.memory, found.on_cpu)
    return PlannedDevice(name, traits.memory, memory, traits.on_cpu, note)
