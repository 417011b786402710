"""The report of `opsd doctor`: platform, versions and what each backend can do on this machine."""

from __future__ import annotations

import os
from typing import Any

import backends
from opsd_cli.config.presets import preset_names
from opsd_cli.errors import OpsdError
from opsd_cli.machine import available_memory, physical_memory
from opsd_cli.provenance import provenance


def system_report() -> dict[str, Any]:
    """Platform, versions, and each backend's capability; memory in bytes.

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
        }
    choice: dict[str, str | None]
    try:
        chosen = backends.choose(backends.AUTO)
        choice = {"name": chosen.name, "reason": chosen.reason}
    except OpsdError as error:
        choice = {"name": None, "reason": error.message}
    facts = provenance(str(choice["name"]), str(choice["reason"]))
    return {
        **facts,
        "memory": physical_memory(),
        "memory_free": available_memory(),
        "backends": found,
        "auto": choice,
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
        "presets": preset_names(),
    }
