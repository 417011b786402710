"""How many devices a command uses: `--devices`, or what a launcher has started."""

from __future__ import annotations

from typing import Literal

from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError

Devices = int | Literal["auto"]
"""A number of devices of this machine, or all that it has."""


def devices_of(given: str | None) -> Devices:
    """What a value of `--devices` means; 1 if it is not given.

    Raises:
        UsageError: it is neither a positive number nor `auto`.
    """
    if given is None:
        return 1
    if given == "auto":
        return "auto"
    if given.isdecimal() and int(given) > 0:
        return int(given)
    raise UsageError(
        f"--devices is {given!r}", "give a number of devices of this machine, or auto for all"
    )


def require_loaded_here(given: bool, devices: Devices) -> None:
    """Raise `UsageError` for several devices where a policy is given, which is loaded already."""
    if given and devices != 1:
        raise UsageError(
            "devices are for a model that is loaded here, and a policy is given",
            "leave out policy, or devices",
        )


def ranks(devices: Devices, config: Config) -> int:
    """The ranks of a command: on the devices that it asks for, or those a launcher has started.

    Raises: as `count`.
    """
    from backends.shared.placement import recognised

    return max(count(devices, config, elsewhere=True), recognised().size)


def count(devices: Devices, config: Config, elsewhere: bool = False) -> int:
    """The number of devices to use.

    Args:
        devices: as asked for.
        config: its backend may still be `auto`.
        elsewhere: for a plan, whose devices another machine may have.

    Raises:
        UsageError: this machine has fewer; a launcher has started processes already;
            `train.reduce: exact` does not suit the number; or they cannot divide the base as
            `train.shard: full` says.
        BackendMissing: the backend cannot run here.
    """
    import backends
    from backends.parallel.policy import units_of
    from backends.parallel.sharding import require_shardable
    from backends.shared.placement import recognised
    from opsd_cli.planning.sharding import require_teacher_engine

    where = recognised()
    if where.size > 1:
        if devices != 1:
            raise UsageError(
                f"{where.launcher} has started {where.size} processes already",
                "leave out --devices",
            )
        units_of(config, where.size)
        require_shardable(config, where.size)
        require_teacher_engine(config, where.size)
        return 1
    if devices == 1:
        return 1
    name = backends.choose(config.backend).name
    found = backends.get(name).capability()
    number = found.devices if devices == "auto" else devices
    # On a CPU, processes share its cores: of use in tests, and on machines with many.
    if number > found.devices and not found.on_cpu and not elsewhere:
        raise UsageError(
            f"--devices asks for {number}, and backend {name!r} sees {found.devices} here",
            "give fewer, or auto for all",
        )
    units_of(config, number)
    require_shardable(config, number)
    require_teacher_engine(config, number)
    return number
