"""The report of `opsd doctor`: platform, versions and what each backend can do on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import backends
from backends.shared.placement import recognised
from opsd_cli.config.presets import preset_names
from opsd_cli.errors import OpsdError
from opsd_cli.hub import cache_folder
from opsd_cli.machine import available_memory, free_disk, physical_memory
from opsd_cli.provenance import provenance


def system_report() -> dict[str, Any]:
    """Platform, versions, and each backend's capability; memory and disks in bytes.

    `disk_free` is of the current folder, `cache_free` of the hub's cache, whose folder is `cache`.

    `each_device` of a backend has a name, `memory` in bytes or None, and in `reaches` the numbers
    of the devices that it exchanges with directly.

    A backend that cannot run is an entry like the others, never an error.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in backends.BACKENDS:
        try:
            capability = backends.get(name).capability()
        except OpsdError as error:
            found[name] = {"available": False, "detail": error.message, "hint": error.hint}
            continue
        found[name] = {
            "available": capability.available,
            "detail": capability.detail,
            "hint": capability.hint,
            "devices": capability.devices if capability.available else 0,
            "each_device": [asdict(device) for device in capability.each_device],
        }
    choice: dict[str, str | None]
    try:
        chosen = backends.choose(backends.AUTO)
        choice = {"name": chosen.name, "reason": chosen.reason}
    except OpsdError as error:
        choice = {"name": None, "reason": error.message}
    cache = cache_folder()
    facts = provenance(str(choice["name"]), str(choice["reason"]))
    where = recognised()
    return {
        **facts,
        "ranks": {"rank": where.rank, "size": where.size, "launcher": where.launcher or None},
        "memory": physical_memory(),
        "memory_free": available_memory(),
        "disk_free": free_disk(Path()),
        "cache": _without_user(cache),
        "cache_free": free_disk(cache),
        "backends": found,
        "auto": choice,
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
        "presets": preset_names(),
    }


def _without_user(folder: Path) -> str:
    """A folder with the home folder as `~`: its path holds the user's name."""
    try:
        return f"~/{folder.relative_to(Path.home()).as_posix()}"
    except (ValueError, RuntimeError):  # elsewhere, or no home folder
        return str(folder)
