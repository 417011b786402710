"""Two machines, as network namespaces of one: a run over both, and one of them cut off.

Needs root on Linux, and `ip` of iproute2; skipped elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.processes.child_processes import package_environment
from tests.support.backend_fixtures import require_backend
from tests.support.processes import PATIENCE_SECONDS
from tests.support.ranks import after_checkpoint, done, left

SETTINGS = (
    "train.questions_per_step=5", "train.checkpoint_every=1", "train.evaluate_every=9",
    "train.reduce=exact", "data.test_problems=4", "data.validation_problems=4",
    "preflight.enabled=false", "sampling.max_new_tokens=24",
)  # fmt: skip
TRAIN = ("train", "--quiet", "--backend", "cpu", *(f"--set={each}" for each in SETTINGS))
ADDRESSES = ("10.77.31.1", "10.77.31.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """The names of two namespaces with a link between them."""
    require_backend("cpu")
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root on Linux, and iproute2")
    names = tuple(f"opsd{os.getpid()}{side}" for side in "ab")
    links = tuple(f"v{os.getpid()}{side}" for side in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for name, link, address in zip(names, links, ADDRESSES, strict=True):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"network namespaces cannot be made: {error.stderr!r}")
    yield names[0], names[1]
    for name in names:
        ip("netns", "del", name)


def start(folder: Path, hosts: tuple[str, str], *words: str) -> list[subprocess.Popen[str]]:
    """The command on both hosts, each in a folder of its own: they share no file."""
    processes = []
    for number, host in enumerate(hosts):
        (folder / host).mkdir(exist_ok=True)
        processes.append(
            subprocess.Popen(
                [
                    "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run",
                    "--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1",
                    "--master-addr", ADDRESSES[0], "--master-port", "29400", "-m", "opsd_cli",
                    *words,
                ],
                cwd=folder / host,
                env=package_environment()
                | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"v{os.getpid()}{'ab'[number]}"},
                text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    return processes


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, Any]:
    """What a run of one process leaves."""
    done(tmp_path, *TRAIN, "--set", "train.steps=3", "--out", "alone")
    return left(tmp_path / "alone")


def test_two_machines_leave_the_files_of_one_process_on_the_first(
    hosts: tuple[str, str], alone: dict[str, Any], tmp_path: Path
) -> None:
    processes = start(tmp_path, hosts, *TRAIN, "--set", "train.steps=3", "--out", "run")
    ended = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert left(tmp_path / hosts[0] / "run") == alone
    assert list((tmp_path / hosts[1]).iterdir()) == []


@pytest.mark.long
def test_a_machine_that_is_cut_off_ends_the_run_on_both_and_one_goes_on_alone(
    hosts: tuple[str, str], tmp_path: Path
) -> None:
    # More than are made before the cut, after which none can be made.
    steps = ("--set", "train.steps=9")
    processes = start(tmp_path, hosts, *TRAIN, *steps, "--out", "run")
    run = tmp_path / hosts[0] / "run"
    after_checkpoint(run, 1)
    ip("-n", hosts[1], "link", "set", f"v{os.getpid()}b", "down")
    # The half minute without an answer is what this is about; the rest is a busy machine's.
    ended = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode for process in processes)
    errors = [line for line in ended[0][1].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "rank 1 of 2 (" in errors[0] and "is lost" in errors[0], ended[0]
    assert not (run / "result.json").exists()
    done(run.parent, "train", "--quiet", "--resume", "--out", "run")
    done(tmp_path, *TRAIN, *steps, "--out", "alone")
    assert left(run) == left(tmp_path / "alone")
