"""The fixtures of every backend's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.backend_fixtures import backend, load, model_folder

__all__ = ["adapter_folder", "backend", "load", "model_folder"]


@pytest.fixture
def adapter_folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Gives the folder of a random adapter of a model family, as PEFT writes it."""
    from tests.support import oracle

    def folder(family: str = "qwen3", seed: int = 1) -> Path:
        return oracle.random_adapter(model_folder(family), tmp_path / f"{family}-{seed}", seed)

    return folder
