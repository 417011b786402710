"""`opsd` with `train.shard`: what is refused before a run exists, and a run with a vLLM server."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from opsd_cli.config.resolve import resolve
from opsd_cli.processes.child_processes import OPSD, package_environment
from tests.support.backend_fixtures import require_backend
from tests.support.fake_vllm import FakeVllm
from tests.support.processes import PATIENCE_SECONDS

TRAIN = (
    "train", "--quiet", "--backend", "cpu", "--set=train.steps=2",
    "--set=train.questions_per_step=3", "--set=data.test_problems=2",
    "--set=data.validation_problems=2", "--set=preflight.enabled=false",
    "--set=sampling.max_new_tokens=8", "--set=train.reduce=exact",
)  # fmt: skip
SHARDED = ("--devices", "2", "--set=train.shard=full")


@pytest.fixture(autouse=True)
def _cpu() -> None:
    require_backend("cpu")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    """Stands in for a vLLM server of the embedded model."""
    settings = json.loads((Path(resolve().model_path) / "config.json").read_text())
    monkeypatch.setattr("tests.support.fake_vllm.STOP", settings["eos_token_id"])
    with FakeVllm() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def ended(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OPSD, *words], cwd=folder, env=package_environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


def test_a_sharded_run_without_a_rollout_engine_of_its_own_is_refused(tmp_path: Path) -> None:
    done = ended(tmp_path, *TRAIN, *SHARDED, "--out", "run")
    assert done.returncode == 2
    assert "rollouts.engine=builtin samples with the trainer's own weights" in done.stderr
    assert "set rollouts.engine=vllm, or train.shard=none" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_a_sharded_run_would_sample_is_refused_before_a_run_exists(
    tmp_path: Path,
) -> None:
    teacher = ("--set=teacher.weights=ema", "--set=teacher.reason_first=true")
    url = ("--set=rollouts.engine=vllm", "--set=rollouts.vllm.url=http://127.0.0.1:9")
    done = ended(tmp_path, *TRAIN, *SHARDED, *teacher, *url, "--out", "run")
    assert done.returncode == 2
    assert "teacher.weights=ema samples its analyses" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_how_the_devices_hold_the_base(server: FakeVllm, tmp_path: Path) -> None:
    words = ("train", "--backend", "cpu", "--dry-run", "--set=rollouts.engine=vllm", *SHARDED)
    url = f"--set=rollouts.vllm.url={server.url}"
    done = ended(tmp_path, *words, url)
    assert done.returncode == 0, done.stderr
    assert "memory on each of 2 devices, cpu" in done.stdout
    assert "train.shard: the base is divided over the devices (full)" in done.stdout
    memory = json.loads(ended(tmp_path, *words, url, "--json").stdout)["memory"]
    assert (memory["devices"], memory["shard"]) == (2, "full")


def test_a_sharded_run_with_a_vllm_server_trains_the_adapter_of_one_process(
    server: FakeVllm, tmp_path: Path
) -> None:
    adapters = []
    engine = ("--set=rollouts.engine=vllm", f"--set=rollouts.vllm.url={server.url}")
    for name, words in (("alone", ()), ("sharded", SHARDED)):
        done = ended(tmp_path, *TRAIN, *engine, *words, "--out", name)
        assert done.returncode == 0, done.stderr
        newest = tmp_path / name / "checkpoints/step-000002/adapter_model.safetensors"
        adapters.append(load_file(newest))
    assert adapters[0].keys() == adapters[1].keys()
    for key, array in adapters[0].items():
        np.testing.assert_allclose(adapters[1][key], array, atol=1e-5, err_msg=key)
