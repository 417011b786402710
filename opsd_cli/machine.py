"""Memory, free disk (in bytes) and CPU cores that this process may use, container limits included.

psutil gives the resources of the machine, on Linux, macOS and Windows. On Linux a container or a
batch system may allow less: the limits of the process's control group and of its parents are read
from the kernel's files (cgroup v1 and v2, `man 7 cgroups`). A file that cannot be read is ignored.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

#: Root of the paths below; tests replace it.
ROOT = Path("/")


def physical_memory() -> int:
    """Bytes of main memory of the machine."""
    import psutil

    return int(psutil.virtual_memory().total)


def memory_limit() -> int:
    """Bytes of main memory that this process may use: the machine's, or a container's limit."""
    return min([physical_memory(), *(limit for limit, _ in _memory_groups())])


def available_memory() -> int:
    """Bytes that can be allocated now without swapping, within the container's limit."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    free += [limit - used for limit, used in _memory_groups()]
    return max(0, min(free))


def free_disk(path: Path) -> int | None:
    """Free bytes for this user on the disk of a path, which need not exist; None if unknown."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def peak_resident() -> int:
    """Peak resident set of this process, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if os.uname().sysname == "Darwin" else highest * 1024


def available_cores() -> int:
    """CPU cores that this process may use: its affinity, or a container's CPU quota rounded up."""
    import psutil

    cores = os.cpu_count() or 1
    # macOS has no affinity, and a sandbox may forbid to read it.
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        cores = len(psutil.Process().cpu_affinity()) or cores
    return max(1, min([cores, *(math.ceil(share) for share in _cpu_shares())]))


def _memory_groups() -> Iterator[tuple[int, int]]:
    """(limit, bytes in use without reclaimable file cache) of each group with a limit."""
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
    """CPU quota of each group that has one, in cores."""
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
    """(cgroup version, folder) of this process's group and of its parents.

    A container sees the hierarchy from below its root, so the path of the group is relative to the
    root that the mount names.
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
    """(root within the hierarchy, mount point) of the matching mounts."""
    found = []
    for line in _text(ROOT / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2 and wanted(kind[0], kind[2].split(",")):
            root, place = (_unescaped(field) for field in fields[3:5])
            found.append((root, ROOT / place.lstrip("/")))
    return found


def _below(path: str, root: str) -> str:
    """A group's path relative to a mount of the hierarchy at `root`; "" if it is not below it."""
    root = root.rstrip("/")
    if path == root or not path.startswith(root + "/") or ".." in path.split("/"):
        return ""
    return path[len(root) :].lstrip("/")


def _unescaped(field: str) -> str:
    """A field of mountinfo, in which spaces are written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
