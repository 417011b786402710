"""`opsd` on several ranks: the run of one, whoever starts the ranks and whatever ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.processes.child_processes import OPSD, package_environment
from tests.support.backend_fixtures import require_backend
from tests.support.processes import PATIENCE_SECONDS, gone
from tests.support.ranks import after_checkpoint, done, left, start, workers_of

SETTINGS = (
    "train.steps=3", "train.questions_per_step=5", "train.checkpoint_every=1",
    "train.evaluate_every=3", "train.reduce=exact", "data.test_problems=6",
    "data.validation_problems=5", "preflight.enabled=false", "sampling.max_new_tokens=24",
)  # fmt: skip
TRAIN = ("train", "--quiet", "--backend", "cpu", *(f"--set={each}" for each in SETTINGS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of one process leaves."""
    require_backend("cpu")
    folder = tmp_path_factory.mktemp("alone")
    done(folder, *TRAIN, "--out", "run")
    return left(folder / "run")


def test_two_ranks_leave_the_files_of_one(alone: dict[str, Any], tmp_path: Path) -> None:
    done(tmp_path, *TRAIN, "--devices", "2", "--out", "run")
    assert left(tmp_path / "run") == alone


def test_torchrun_s_ranks_leave_the_files_of_one(alone: dict[str, Any], tmp_path: Path) -> None:
    launcher = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "opsd_cli",
    )  # fmt: skip
    done(tmp_path, *TRAIN, "--out", "run", launcher=launcher)
    assert left(tmp_path / "run") == alone


def test_a_command_without_workers_ends_under_torchrun(tmp_path: Path) -> None:
    require_backend("cpu")
    launcher = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "opsd_cli",
    )  # fmt: skip
    process = start(tmp_path, *TRAIN, "--set", "train.steps=none", launcher=launcher)
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode != 0
    assert error.count("error: train.steps") == 1


def test_a_killed_worker_ends_the_run_which_goes_on_alone(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    process = start(tmp_path, *TRAIN, "--devices", "2", "--out", "run")
    after_checkpoint(tmp_path / "run", 1)
    (worker,) = workers_of(process)
    worker.kill()
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert f"rank 1 of 2 (process {worker.pid}) is lost: it was ended by SIGKILL" in error
    assert "--resume" in error
    assert "Traceback" not in error
    done(tmp_path, "train", "--quiet", "--resume", "--out", "run")
    assert left(tmp_path / "run") == alone


def test_a_killed_rank_0_takes_its_workers_along(alone: dict[str, Any], tmp_path: Path) -> None:
    process = start(tmp_path, *TRAIN, "--devices", "2", "--out", "run")
    after_checkpoint(tmp_path / "run", 1)
    (worker,) = workers_of(process)
    process.kill()
    process.communicate()
    assert gone(worker.pid)
    done(tmp_path, "train", "--quiet", "--resume", "--devices", "2", "--out", "run")
    assert left(tmp_path / "run") == alone


def test_ctrl_c_saves_and_another_number_of_ranks_goes_on(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    process = start(tmp_path, *TRAIN, "--out", "run")
    after_checkpoint(tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    process = start(tmp_path, "train", "--resume", "--devices", "2", "--out", "run")
    (worker,) = workers_of(process)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert gone(worker.pid)
    assert left(tmp_path / "run") == alone


@pytest.mark.long  # test_hosts.py has this under a launcher, and the other direction is above
def test_ctrl_c_on_two_ranks_saves_and_one_goes_on(alone: dict[str, Any], tmp_path: Path) -> None:
    process = start(tmp_path, *TRAIN, "--devices", "2", "--out", "run")
    after_checkpoint(tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, error
    done(tmp_path, "train", "--quiet", "--resume", "--out", "run")
    assert left(tmp_path / "run") == alone


def test_an_evaluation_on_two_ranks_has_the_samples_of_one(tmp_path: Path) -> None:
    require_backend("cpu")
    words = ("eval", "--quiet", "--backend", "cpu", "--limit", "6", "--samples", "2", "--out")
    done(tmp_path, *words, "one")
    done(tmp_path, *words, "two", "--devices", "2")
    one, two = ((tmp_path / name / "samples.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.count(b"\n") == 12


@pytest.mark.long  # evaluations, which deal their rollouts alike, are above
def test_a_sample_on_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    require_backend("cpu")
    words = ("sample", "--json", "--backend", "cpu", "--limit", "3", "--divergence")
    one, two = (json.loads(done(tmp_path, *words, *more)) for more in ((), ("--devices", "2")))
    assert one == two


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", "0"), "--devices is '0'"),
        (("--devices", "many"), "--devices is 'many'"),
        (("--devices", "3", "--set", "train.reduce=exact"), "8 units, which 3 ranks cannot share"),
    ],
)
def test_a_wrong_number_of_devices_is_refused_before_a_run_exists(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    require_backend("cpu")
    process = start(tmp_path, "train", "--backend", "cpu", "--out", "run", *words)
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert message in error
    assert not (tmp_path / "run").exists()


def test_devices_are_refused_where_a_launcher_has_started_ranks(tmp_path: Path) -> None:
    require_backend("cpu")
    environment = package_environment() | {
        "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }  # fmt: skip
    done_ = subprocess.run(
        [*OPSD, "train", "--backend", "cpu", "--devices", "2", "--out", "run"],
        cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done_.returncode == 2
    assert "Open MPI has started 2 processes already" in done_.stderr
