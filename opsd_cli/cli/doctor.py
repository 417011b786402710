"""`opsd doctor`: prints the report of this machine, to paste into an issue."""

from __future__ import annotations

import itertools
from typing import Any

from opsd_cli.cli.console import Output
from opsd_cli.system_report import system_report


def machine_line(facts: dict[str, Any]) -> str:
    """Cores and memory that this process may use, of those that the machine has."""
    cores = f"{facts['cores_usable']}"
    if facts["cores_usable"] != facts["cpus"]:
        cores += f" of {facts['cpus']} (affinity or a container's limit)"
    memory = f"{facts['memory_usable'] / 2**30:.1f} GiB"
    if facts["memory_usable"] < facts["memory"]:
        memory += f" of {facts['memory'] / 2**30:.1f} (a container's limit)"
    return f"cores: {cores}; memory: {memory}, {facts['memory_free'] / 2**30:.1f} free"


def disk_line(facts: dict[str, Any]) -> str:
    """Free space in the current folder and in the hub's cache, and the cache's folder."""

    def size(free: int | None) -> str:
        return "unknown" if free is None else f"{free / 2**30:.1f} GiB"

    return (
        f"free disk: {size(facts['disk_free'])} here, {size(facts['cache_free'])} for downloads "
        f"(cache: {facts['cache']}; HF_HOME moves it)"
    )


def devices_line(facts: dict[str, Any]) -> str:
    """How many devices `--devices auto` takes, or what a launcher has started."""
    ranks = facts["ranks"]
    if ranks["size"] > 1:
        return (
            f"ranks: {ranks['size']}, started by {ranks['launcher']}; this is rank {ranks['rank']}"
        )
    chosen = facts["backends"].get(facts["auto"]["name"], {}).get("devices", 0)
    note = "; --devices shares a run among them" if chosen > 1 else ""
    return f"devices: {chosen}{note}"


def device_lines(facts: dict[str, Any]) -> list[str]:
    """A line for each device of the backend that `auto` chooses, and one for their links."""
    devices = facts["backends"].get(facts["auto"]["name"], {}).get("each_device", [])
    lines = []
    for number, device in enumerate(devices):
        size = "" if device["memory"] is None else f", {device['memory'] / 2**30:.1f} GiB"
        lines.append(f"  {number}  {device['name']}{size}")
    pairs = list(itertools.combinations(range(len(devices)), 2))
    linked = [
        f"{one}-{other}"
        for one, other in pairs
        if other in devices[one]["reaches"] and one in devices[other]["reaches"]
    ]
    if len(linked) == len(pairs):
        reach = "every pair"
    else:
        reach = f"the pairs {', '.join(linked)}, and no other" if linked else "no pair"
    return [*lines, f"  direct exchange: {reach}"] if pairs else lines


def run(as_json: bool) -> None:
    """Print the report."""
    facts = system_report()
    out = Output(as_json)
    if not as_json:
        out.show(f"opsd {facts['opsd']}, Python {facts['python']}, {facts['platform']}")
        out.show(machine_line(facts))
        out.show(disk_line(facts))
        out.show("packages: " + ", ".join(f"{k} {v}" for k, v in facts["packages"].items()))
        out.show(f"auto chooses: {facts['auto']['name']} ({facts['auto']['reason']})")
        out.exact(devices_line(facts))
        for line in device_lines(facts):
            out.show(line)
        width = 1 + max(map(len, facts["backends"]))
        for name, entry in facts["backends"].items():
            mark = "yes" if entry["available"] else "no "
            out.exact(f"  {name:<{width}} {mark}  {entry['detail']}")
            if entry["hint"] and not entry["available"]:
                out.exact(f"             hint: {entry['hint']}")
        out.exact(f"hub: {'offline (HF_HUB_OFFLINE)' if facts['hub_offline'] else 'on demand'}")
        out.show("presets: " + ", ".join(facts["presets"]))
    out.object(facts)
