"""Fixtures of the tests of several ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Backend, Policy
from backends.parallel.control import Workers
from backends.parallel.ranks import loaded_on_all, opened
from backends.shared import placement
from opsd_cli.config.resolve import resolve
from tests.support.backend_fixtures import LORA
from tests.support.ranks import Loaded


@pytest.fixture
def sizes(backend: Backend) -> Sequence[int]:
    """Numbers of ranks to hold against each other. A process can join one ring of MLX's alone."""
    return (1, 2) if backend.name == "mlx" else (1, 2, 4)


@pytest.fixture(scope="session")
def workers_of() -> Iterator[Callable[[int], Workers | None]]:
    """The workers of a number of ranks, started at the first call."""
    with contextlib.ExitStack() as stack:
        started: dict[int, Workers | None] = {}

        def workers(size: int) -> Workers | None:
            if size not in started:
                started[size] = stack.enter_context(opened(size))
            return started[size]

        yield workers


@pytest.fixture
def loaded(
    backend: Backend,
    model_folder: Callable[[str], Path],
    workers_of: Callable[[int], Workers | None],
) -> Loaded:
    """Loads a tiny model on so many ranks, with sections of the config as keyword arguments."""

    @contextlib.contextmanager
    def loaded(size: int, reduce: str = "exact", **sections: Any) -> Iterator[Policy]:
        tree: dict[str, Any] = {
            "model": str(model_folder("qwen3")),
            "backend": backend.name,
            "seed": 3,
            "lora": {**LORA, **sections.pop("lora", {})},
            "optimizer": {"max_grad_norm": 1.0},
            "train": {
                "dtype": "float32", "reduce": reduce, "micro_batch_tokens": 48,
                **sections.pop("train", {}),
            },
            **sections,
        }  # fmt: skip
        config = resolve(None, (), tree)
        workers = workers_of(size)
        # The workers stay for other tests. Outside of the block this process is alone: a memory
        # plan of a later test asks how many share its machine.
        placement.lead(size)
        try:
            with loaded_on_all(config, True, workers, lambda: backend.load(config, True)) as policy:
                yield policy
        finally:
            placement.lead(1)

    return loaded
