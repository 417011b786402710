"""What every backend is tested with: tiny models on disk, and a policy loaded from one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.interface import Backend, DivergenceItem, Policy
from opsd_cli.config.schema import Config
from opsd_cli.errors import BackendMissing
from tests.support import tiny_models

Load = Callable[..., Policy]

EOS = 0
#: Ragged on both sides; a completion of one token; completions that end on EOS, and one that is
#: nothing else; the last ends at the limit, without EOS.
ITEMS = (
    DivergenceItem((5, 6, 7), (8, 9, 10, 11, 5, 6), (12, 13, 14, EOS), 0.5),
    DivergenceItem((4,), (9, 4), (EOS,), 1.0),
    DivergenceItem((20, 21, 22, 23, 24, 25), (3,), (7,), 0.25),
    DivergenceItem((15, 16), (15, 16, 17), (18, 19, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), 2.0),
)
LORA = {"rank": 3, "alpha": 6, "targets": ["q_proj", "v_proj", "up_proj", "down_proj"]}


def require_backend(name: str) -> Backend:
    """The backend of that name; where it cannot work here, the test is skipped by name.

    On a CI machine a missing backend is a failure, except a GPU's.
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
    """The folder of a model family, built when first asked for."""
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


@pytest.fixture
def adapter_folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A random adapter of a family, as PEFT writes it."""
    from tests.support import oracle

    def folder(family: str = "qwen3", seed: int = 1) -> Path:
        return oracle.random_adapter(model_folder(family), tmp_path / f"{family}-{seed}", seed)

    return folder
