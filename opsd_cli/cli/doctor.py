"""`opsd doctor`: platform, versions and what each backend can do here, to paste into an issue."""

from __future__ import annotations

import os
from typing import Any

import backends
from opsd_cli.cli.console import Output
from opsd_cli.config.presets import preset_names
from opsd_cli.errors import OpsdError
from opsd_cli.machine import available_memory, physical_memory
from opsd_cli.provenance import provenance


def report() -> dict[str, Any]:
    """Platform, versions, and each backend's capability."""
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


def machine_line(facts: dict[str, Any]) -> str:
    """Cores and memory that this process may use, of those that the machine has."""
    cores = f"{facts['cores_usable']}"
    if facts["cores_usable"] != facts["cpus"]:
        cores += f" of {facts['cpus']} (affinity or a container's limit)"
    memory = f"{facts['memory_usable'] / 2**30:.1f} GiB"
    if facts["memory_usable"] < facts["memory"]:
        memory += f" of {facts['memory'] / 2**30:.1f} (a container's limit)"
    return f"cores: {cores}; memory: {memory}, {facts['memory_free'] / 2**30:.1f} free"


def run(as_json: bool) -> None:
    """Print the report. A backend that cannot run is part of it, never an error."""
    facts = report()
    out = Output(as_json)
    if not as_json:
        out.exact(f"opsd {facts['opsd']}, Python {facts['python']}, {facts['platform']}")
        out.exact(machine_line(facts))
        out.exact("packages: " + ", ".join(f"{k} {v}" for k, v in facts["packages"].items()))
        out.exact(f"auto chooses: {facts['auto']['name']} ({facts['auto']['reason']})")
        width = 1 + max(map(len, facts["backends"]))
        for name, entry in facts["backends"].items():
            mark = "yes" if entry["available"] else "no "
            out.exact(f"  {name:<{width}} {mark}  {entry['detail']}")
            if entry["hint"] and not entry["available"]:
                out.exact(f"             hint: {entry['hint']}")
        out.exact(f"hub: {'offline (HF_HUB_OFFLINE)' if facts['hub_offline'] else 'on demand'}")
        out.exact("presets: " + ", ".join(facts["presets"]))
    out.object(facts)
