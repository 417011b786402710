"""`teacher.quantize`: weights quantised while the teacher is loaded."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from backends.interface import Backend, RolloutRequest, Sampling
from opsd_cli.errors import BackendMissing
from tests.support import oracle, tiny_models
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import ITEMS

#: Rows of 64 numbers: a group of the quantisation.
WIDE = {**tiny_models.SETTINGS["qwen3"], "hidden_size": 64, "num_hidden_layers": 1}
PAIRS = [(item.teacher_prompt, item.completion) for item in ITEMS]


@pytest.fixture(autouse=True)
def quantizer(backend: Backend) -> None:
    package = backend.traits.quantizer
    if package and importlib.util.find_spec(package) is None and not os.environ.get("CI"):
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    return tiny_models.build(folder, WIDE, seed=3, pad_is_end=True)


def test_quantised_teacher_is_near_the_full_one(load: Load, wide: Path) -> None:
    given = {"model": str(wide)}
    full = oracle.dense(wide)
    errors = []
    for bits in ("int8", "int4"):
        policy = load(teacher={**given, "quantize": bits})
        scores = policy.score(PAIRS, "teacher", "model")
        largest = 0.0
        for (prompt, completion), found in zip(PAIRS, scores, strict=True):
            log_p = full.logits(prompt, completion).log_softmax(-1)
            wanted = log_p[range(len(completion)), list(completion)].detach().numpy()
            largest = max(largest, float(np.abs(found - wanted).max()))
        errors.append(largest)
        alone = [policy.score([pair], "teacher", "model")[0] for pair in PAIRS]
        for one, beside in zip(alone, scores, strict=True):
            np.testing.assert_allclose(one, beside, atol=1e-5)
        assert f"{bits.removeprefix('int')}-bit" in policy.description
    eight, four = errors
    assert 1e-4 < eight < four
    assert eight < 0.5


def test_missing_package_is_named(
    load: Load, backend: Backend, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not backend.traits.quantizer:
        return
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=backend.traits.quantizer):
        load(teacher={"model": str(wide), "quantize": "int8"})


def test_quantised_teacher_samples(
    load: Load, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load(teacher={"model": str(wide), "quantize": "int8"})
    requests = [RolloutRequest(str(n), 0, (5, 6, 7), n) for n in range(2)]
    drawn = list(policy.generate(requests, Sampling(max_new_tokens=4), "teacher", "model"))
    assert len(drawn) == 2 and all(rollout.completion_ids for rollout in drawn)
    assert capsys.readouterr().out == ""  # where --json writes
