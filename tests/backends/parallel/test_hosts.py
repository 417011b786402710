"""`--hosts`: a command runs itself under `mlx.launch`, whose processes share one run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.backend_fixtures import require_backend
from tests.support.killable_commands import problems
from tests.support.processes import PATIENCE_SECONDS
from tests.support.ranks import after_checkpoint, done, left, start

SETTINGS = (
    "data.train=sums.jsonl", "train.steps=2", "train.questions_per_step=5", "train.reduce=exact",
    "train.checkpoint_every=1", "train.evaluate_every=9", "data.test_problems=3",
    "data.validation_problems=3", "preflight.enabled=false", "sampling.max_new_tokens=4",
    "optimizer.learning_rate=0.01", "prompts.student.template={question}",
    "prompts.teacher.template={solution} {question}",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with problems, and a host file of two processes on this machine."""
    (tmp_path / "sums.jsonl").write_text(problems(), encoding="utf-8")
    hosts = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    return tmp_path


def require_mlx_launch() -> None:
    require_backend("mlx")
    if shutil.which("mlx.launch", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mlx.launch is not installed")


def quantised(model: Path, folder: Path) -> Path:
    """The model with 4-bit weights, in groups of 32 numbers."""
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    small, settings = quantize_model(*load_model(model), group_size=32, bits=4)
    save_model(folder, small)
    save_config(settings, folder / "config.json")
    return folder


def words(model: Path, backend: str, *settings: str) -> tuple[str, ...]:
    given = (f"--set={each}" for each in (*SETTINGS, *settings))
    return ("train", "--quiet", "--backend", backend, "--model", str(model), *given)


def test_two_processes_of_mlx_launch_leave_the_files_of_one(
    folder: Path, model_folder: Callable[[str], Path]
) -> None:
    require_mlx_launch()
    command = words(model_folder("qwen3"), "mlx")
    done(folder, *command, "--out", "one")
    done(folder, *command, "--out", "two", "--hosts", "hosts.json")
    assert left(folder / "two") == left(folder / "one")


def test_ctrl_c_under_hosts_is_for_rank_0_which_saves(
    folder: Path, model_folder: Callable[[str], Path]
) -> None:
    require_mlx_launch()
    command = words(model_folder("qwen3"), "mlx", "train.steps=6", "train.keep_checkpoints=9")
    done(folder, *command, "--out", "one")
    process = start(
        folder, *command, "--out", "two", "--hosts", "hosts.json", start_new_session=True
    )
    after_checkpoint(folder / "two", 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "stopping at the next rollout, then saving" in error
    assert not (folder / "two/result.json").exists()
    done(folder, "train", "--quiet", "--resume", "--out", "two", "--hosts", "hosts.json")
    assert left(folder / "two") == left(folder / "one")


def test_mlx_launch_that_fails_itself_fails_the_command(folder: Path) -> None:
    require_mlx_launch()
    (folder / "hosts.json").write_text('[{"ssh": 3}]')
    process = start(folder, "train", "--backend", "mlx", "--out", "run", "--hosts", "hosts.json")
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode not in (0, None)


def test_two_mlx_ranks_train_on_a_quantised_base_as_one_process_does(
    folder: Path, model_folder: Callable[[str], Path]
) -> None:
    """QLoRA, also with `train.reduce=fast`, which sums in another order."""
    require_backend("mlx")
    import numpy as np
    from safetensors.numpy import load_file

    small = quantised(model_folder("qwen3"), folder / "small")
    command = words(small, "mlx", "train.reduce=fast", "optimizer.learning_rate=0.001")
    adapters = []
    for name, more in (("one", ()), ("two", ("--devices", "2"))):
        done(folder, *command, *more, "--out", name)
        newest = folder / name / "checkpoints/step-000002/adapter_model.safetensors"
        adapters.append(load_file(newest))
    assert adapters[0].keys() == adapters[1].keys()
    for name, weights in adapters[0].items():
        np.testing.assert_allclose(adapters[1][name], weights, atol=1e-5)
    assert any(np.abs(weights).max() > 1e-4 for n, weights in adapters[0].items() if "lora_B" in n)


def test_a_checkpoint_of_two_ranks_of_pytorch_goes_on_with_two_of_mlx(
    folder: Path, model_folder: Callable[[str], Path]
) -> None:
    """It ends where a run on PyTorch alone ends, to rounding."""
    require_backend("mlx")
    require_backend("cpu")
    import numpy as np
    from safetensors.numpy import load_file

    # AdamW divides by the gradient's size, so the rounding of a gradient near 0 shows as a share of
    # the learning rate.
    command = words(model_folder("qwen3"), "cpu", "optimizer.learning_rate=0.001")
    done(folder, *command, "--out", "whole")
    done(folder, *command, "--out", "moved", "--devices", "2")
    # Back to the first step, and on from there elsewhere.
    done(
        folder, "train", "--quiet", "--resume-from", "1", "--out", "moved", "--devices", "2",
        "--backend", "mlx",
    )  # fmt: skip
    adapter = "checkpoints/step-000002/adapter_model.safetensors"
    whole, moved = (load_file(folder / name / adapter) for name in ("whole", "moved"))
    assert whole.keys() == moved.keys()
    for name, weights in whole.items():
        np.testing.assert_allclose(moved[name], weights, atol=1e-5)
