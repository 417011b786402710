"""What is told of a long prompt while it is read, at the points that each backend knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.interface import RolloutRequest, Sampling
from backends.parallel.progress import MergedProgress, RankProgress
from backends.shared.decoding import Row
from tests.support import tiny_models
from tests.support.backend_fixtures import require_backend
from tests.support.reports import Reports, report

PROMPTS = [tuple(range(3, 3 + count)) for count in (4, 11, 14)]


def rows() -> list[Row]:
    return [Row(RolloutRequest(str(n), 0, ids, n), 4) for n, ids in enumerate(PROMPTS)]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_prompt_reading_is_told_layer_by_layer_and_changes_no_logits(
    model_folder: Callable[[str], Path], family: str
) -> None:
    import torch

    from backends.pytorch.generation import TorchBatch
    from opsd_cli.config.schema import Config

    policy = require_backend("cpu").load(Config(model=str(model_folder(family))), trainable=False)
    model = policy._split_model  # type: ignore[attr-defined]
    told: list[float] = []
    plain, watched = (TorchBatch(model, Sampling(max_new_tokens=4)) for _ in range(2))
    plain.admit(rows())
    watched.admit(rows(), told.append)
    layers = len(model.decoder.layers)
    assert told == [number / layers for number in range(1, layers + 1)]
    plain.draw(), watched.draw()
    told.clear()
    with torch.inference_mode():
        first, second = (
            model.hidden(batch.last_B[:, None], None, batch.length_B[:, None], batch.cache)
            for batch in (plain, watched)
        )
    assert torch.equal(first, second)
    assert not told  # the hooks are gone


def test_prompt_reading_is_told_in_pieces_on_mlx(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlx = require_backend("mlx")
    from backends.mlx import generation
    from opsd_cli.config.schema import Config

    policy = mlx.load(Config(model=str(model_folder("qwen3"))), trainable=False)
    monkeypatch.setattr(generation, "_PREFILL", 4)
    told: list[float] = []
    batch = generation.MlxBatch(policy._split_model, Sampling())  # type: ignore[attr-defined]
    batch.admit(rows(), told.append)
    assert len(told) == 4 and told == sorted(told) and told[-1] == 1.0


def test_prompt_reading_of_several_ranks_is_added_up() -> None:
    observer = Reports()
    merged = MergedProgress(observer, lambda: None)
    merged.begin(3)
    merged.decoding(report(0, 100, prompt_tokens=10, prompt_total=50, reading=True))
    assert observer.newest.prompt_tokens == 10
    assert observer.newest.prompt_total == 150  # ranks that are silent have as much to read
    merged.of_worker(1, RankProgress(0, 90, prompt_tokens=20, prompt_total=40))
    newest = observer.newest
    assert (newest.prompt_tokens, newest.prompt_total, newest.reading) == (30, 140, True)
