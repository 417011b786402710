"""Memory and cores that this process may use, which in a container are often few of many.

psutil tells what the machine has, on Linux, macOS and Windows alike. On Linux a container or a
batch system may allow less of it: the limits of the process's own control group, and of every
group above it, are read from the kernel's files (cgroup v1 and v2, `man 7 cgroups`). What cannot be
read limits nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

#: Where /proc and the control groups are looked for; tests put another tree here.
ROOT = Path("/")


def physical_memory() -> int:
    """Bytes of the machine's own memory."""
    import psutil

    return int(psutil.virtual_memory().total)


def memory_limit() -> int:
    """Bytes that this process may fill: the machine's memory, or what a container allows of it."""
    return min([physical_memory(), *(limit for limit, _ in _memory_groups())])


def available_memory() -> int:
    """Bytes that can be had now without swapping, within the container's limit."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    free += [limit - used for limit, used in _memory_groups()]
    return max(0, min(free))


def peak_resident() -> int:
    """The most bytes that this process ever had in memory."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if os.uname().sysname == "Darwin" else highest * 1024


def available_cores() -> int:
    """The cores this process may use: its affinity, and a container's share of time, rounded up."""
    import psutil

    cores = os.cpu_count() or 1
    # macOS has no affinity, and a sandbox may hide it.
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        cores = len(psutil.Process().cpu_affinity()) or cores
    return max(1, min([cores, *(math.ceil(share) for share in _cpu_shares())]))


def _memory_groups() -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot simply be dropped) of each group that sets a limit."""
    total = physical_memory()
    for version, group in _groups("memory"):
        if version == 2:
            names = ("memory.max", "memory.current", "inactive_file")
        else:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit = _number(group / names[0])
        if limit is None or limit >= total:  # cgroup v1 writes "none" as a huge number
            continue
        droppable = re.search(rf"^{names[2]} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
        used = (_number(group / names[1]) or 0) - (int(droppable[1]) if droppable else 0)
        yield limit, max(0, used)


def _cpu_shares() -> Iterator[float]:
    """Cores' worth of time that each group with a quota may use."""
    for version, group in _groups("cpu"):
        if version == 2:
            quota, _, period = _text(group / "cpu.max").strip().partition(" ")
        else:
            quota, period = (
                _text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
            )
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """(cgroup version, folder) of this process's group and of those above it.

    A container sees the hierarchy from somewhere below its root, so the group's path counts from
    the root that its mount names.
    """
    for line in _text(ROOT / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found = _mounted(lambda kind, options: kind == "cgroup2")
            version = 2
        elif controller in controllers.split(","):
            found = _mounted(lambda kind, options: kind == "cgroup" and controller in options)
            version = 1
        else:
            continue
        for root, mount in found:
            folder = mount / _below(path, root)
            while True:
                yield version, folder
                if folder == mount or mount not in folder.parents:
                    break
                folder = folder.parent


def _mounted(wanted: Callable[[str, list[str]], bool]) -> list[tuple[str, Path]]:
    """(root within the hierarchy, mount point) of the mounts of a kind."""
    found = []
    for line in _text(ROOT / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2 and wanted(kind[0], kind[2].split(",")):
            root, place = (_unescaped(field) for field in fields[3:5])
            found.append((root, ROOT / place.lstrip("/")))
    return found


def _below(path: str, root: str) -> str:
    """A group's path as seen from a mount of the hierarchy at `root`; "" where it is not below."""
    root = root.rstrip("/")
    if path == root or not path.startswith(root + "/") or ".." in path.split("/"):
        return ""
    return path[len(root) :].lstrip("/")


def _unescaped(field: str) -> str:
    """mountinfo writes spaces and the like as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
