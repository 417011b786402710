"""Fixtures of the tests that every backend must pass, which their conftest files import.

`backend` is each registered backend, `model_folder` the folder of a tiny model, and `load` loads a
policy from one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.interface import Backend, Policy
from opsd_cli.config.schema import Config
from opsd_cli.errors import BackendMissing
from tests.support import tiny_models

Load = Callable[..., Policy]

LORA: dict[str, Any] = {
    "rank": 3,
    "alpha": 6,
    "targets": ["q_proj", "v_proj", "up_proj", "down_proj"],
}


def require_backend(name: str) -> Backend:
    """The backend of that name. Where it cannot work here, the test is skipped with the reason.

    Where the environment has `CI`, a missing backend fails the test, except `cuda`.
    """
    try:
        found = backends.get(name)
        capability = found.capability()
        if capability.available:
            return found
        problem = capability.detail
    except BackendMissing as error:
        problem = error.message
    if os.environ.get("CI") and name != "cuda":
        pytest.fail(f"backend {name}: {problem}")
    pytest.skip(f"backend {name}: {problem}")


@pytest.fixture(scope="session", params=list(backends.BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each registered backend."""
    return require_backend(request.param)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a model family, which is built at the first call."""
    built: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        if family not in built:
            built[family] = tiny_models.build_model(root / family, family)
        return built[family]

    return folder


@pytest.fixture
def load(backend: Backend, model_folder: Callable[[str], Path]) -> Load:
    """Loads a policy of a family, with sections of the config as keyword arguments."""

    def policy(family: str = "qwen3", trainable: bool = True, **sections: Any) -> Policy:
        if (backend.name, family) in tiny_models.REFUSED:
            pytest.skip(f"{backend.name} refuses {family}")
        # With beta1 = 0 the first moment that `save` writes is the gradient of the last step.
        defaults: dict[str, Any] = {
            "model": str(model_folder(family)),
            "lora": LORA,
            "optimizer": {"betas": (0.0, 0.999), "max_grad_norm": 1e9},
            "train": {"dtype": "float32"},
        }
        for name, section in sections.items():
            given = defaults.get(name)
            defaults[name] = {**given, **section} if isinstance(given, dict) else section
        return backend.load(Config(**defaults), trainable)

    return policy
