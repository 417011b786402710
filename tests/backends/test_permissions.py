"""Whoever may read a run may read its weights: a server that is to load them is another user."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.shared import adapter_files
from tests.support.backend_fixtures import Load

MODES = {0o022: 0o644, 0o027: 0o640}
SETTINGS = {"r": 1, "lora_alpha": 2, "use_rslora": False, "use_dora": False}
WEIGHTS = {
    "base_model.model.model.layers.0.q.lora_A.weight": np.ones((1, 2), np.float32),
    "base_model.model.model.layers.0.q.lora_B.weight": np.ones((2, 1), np.float32),
}


@pytest.fixture(params=MODES, ids=oct)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """What a new file may be read by, under each of the usual umasks."""
    before = os.umask(request.param)
    yield MODES[request.param]
    os.umask(before)


def modes(folder: Path) -> set[int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    return {stat.S_IMODE(path.stat().st_mode) for path in files}


def test_adapter_weights_have_the_permissions_of_a_new_file(mode: int, tmp_path: Path) -> None:
    adapter_files.write_peft(tmp_path / "peft", WEIGHTS, SETTINGS)
    adapter_files.write_mlx(tmp_path / "mlx", WEIGHTS, SETTINGS)
    assert modes(tmp_path / "peft") == modes(tmp_path / "mlx") == {mode}


def test_checkpoint_and_merged_weights_have_the_permissions_of_a_new_file(
    mode: int, load: Load, tmp_path: Path
) -> None:
    policy = load()
    for folder in ("saved", "merged"):
        (tmp_path / folder).mkdir()
    policy.save(tmp_path / "saved")
    policy.save_merged(tmp_path / "merged")
    assert modes(tmp_path / "saved") == modes(tmp_path / "merged") == {mode}
