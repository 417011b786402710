"""`opsd doctor`: what is here and what each backend can do, ready to paste into an issue."""

from __future__ import annotations

import os
from typing import Any

import backends
from opsd_cli.cli.console import Output
from opsd_cli.environment import environment
from opsd_cli.errors import OpsdError
from opsd_cli.resolve import preset_names


def report() -> dict[str, Any]:
    """Platform, versions, and each backend's capability."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("mlx", "cuda", "cpu"):
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
        chosen = backends.choose("auto")
        choice = {"name": chosen.name, "reason": chosen.reason}
    except OpsdError as error:
        choice = {"name": None, "reason": error.message}
    facts = environment(str(choice["name"]), str(choice["reason"]))
    return {
        **facts,
        "backends": found,
        "auto": choice,
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
        "presets": preset_names(),
    }


def run(as_json: bool) -> None:
    """Print the report; it never fails."""
    facts = report()
    out = Output(as_json)
    if not as_json:
        print(f"opsd {facts['opsd']}, Python {facts['python']}, {facts['platform']}")
        print(f"cpus: {facts['cpus']}")
        print("packages: " + ", ".join(f"{k} {v}" for k, v in facts["packages"].items()))
        print(f"auto chooses: {facts['auto']['name']} ({facts['auto']['reason']})")
        for name, entry in facts["backends"].items():
            mark = "yes" if entry["available"] else "no "
            print(f"  {name:<5} {mark}  {entry['detail']}")
            if entry["hint"] and not entry["available"]:
                print(f"             hint: {entry['hint']}")
        print(f"hub: {'offline (HF_HUB_OFFLINE)' if facts['hub_offline'] else 'on demand'}")
        print("presets: " + ", ".join(facts["presets"]))
    out.object(facts)
