"""Memory and cores within the limits of a container, on stand-ins for /proc and the cgroups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from opsd_cli import machine

GIB = 2**30
V2 = "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 23 0:28 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 23 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root without limits on a machine of 64 GiB, 48 of them free, and 16 cores."""
    import psutil

    class Memory:
        total, available = 64 * GIB, 48 * GIB

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(16)), raising=False)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def told() -> tuple[float, float, int]:
    return machine.memory_limit() / GIB, machine.available_memory() / GIB, machine.available_cores()


def test_machine_without_cgroups_has_its_own_memory_and_cores(tree: Path) -> None:
    assert told() == (64, 48, 16)


def test_machine_cgroup_v2_limits_of_the_group_and_its_parents(tree: Path) -> None:
    write(
        tree,
        {
            "proc/self/cgroup": "0::/batch/job7\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/batch/job7/memory.max": "max\n",
            "sys/fs/cgroup/batch/job7/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/batch/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/batch/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/batch/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
            "sys/fs/cgroup/batch/cpu.max": "max 100000\n",
        },
    )
    assert told() == (8, 5, 3)


def test_machine_cgroup_v1_limits_in_a_container(tree: Path) -> None:
    write(
        tree,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            "proc/self/mountinfo": V1.format(root="/docker/abc"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert told() == (4, 3, 1)


def test_machine_cgroup_v1_without_limits_or_with_damaged_files(tree: Path) -> None:
    write(
        tree,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/../..\nnonsense\n\n",
            "proc/self/mountinfo": V1.format(root="/") + "short line\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "0\n",
        },
    )
    assert told() == (64, 48, 16)


def test_machine_cores_by_affinity_or_by_count(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [3], raising=False)
    assert machine.available_cores() == 1
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert machine.available_cores() == 12


def test_machine_memory_without_sysconf_and_resource(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    import psutil

    class Windows:
        peak_wset = 7 * GIB

    monkeypatch.delattr("os.sysconf")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: Windows())
    assert machine.peak_resident() == 7 * GIB
    assert machine.memory_limit() > 0


def test_doctor_shows_the_limits_of_a_container() -> None:
    from opsd_cli.cli.doctor import machine_line

    facts = {
        "cpus": 16, "cores_usable": 3, "memory": 64 * GIB, "memory_usable": 8 * GIB,
        "memory_free": 5 * GIB,
    }  # fmt: skip
    assert machine_line(facts) == (
        "cores: 3 of 16 (affinity or a container's limit); memory: 8.0 GiB of 64.0 "
        "(a container's limit), 5.0 free"
    )


def test_free_disk_of_a_folder_that_does_not_exist_is_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {tmp_path: 7 * GIB}

    def usage(path: Path) -> SimpleNamespace:
        if path not in sizes:
            raise FileNotFoundError
        return SimpleNamespace(free=sizes[path])

    monkeypatch.setattr("shutil.disk_usage", usage)
    assert machine.free_disk(tmp_path / "a" / "b") == 7 * GIB
    sizes.clear()
    assert machine.free_disk(tmp_path) is None


def test_doctor_shows_free_disk_and_the_cache_folder() -> None:
    from opsd_cli.cli.doctor import disk_line

    facts = {"disk_free": 3 * GIB, "cache_free": None, "cache": "~/.cache/huggingface/hub"}
    assert disk_line(facts) == (
        "free disk: 3.0 GiB here, unknown for downloads "
        "(cache: ~/.cache/huggingface/hub; HF_HOME moves it)"
    )


def test_doctor_report_names_the_hub_cache_without_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from opsd_cli import system_report

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(system_report, "cache_folder", lambda: tmp_path / "hub")
    report = system_report.system_report()
    assert report["cache"] == "~/hub"
    assert report["disk_free"] > 0 and report["cache_free"] > 0
    monkeypatch.setattr(system_report, "cache_folder", lambda: tmp_path.parent / "elsewhere")
    assert system_report.system_report()["cache"] == str(tmp_path.parent / "elsewhere")
