"""`teacher.quantize`: weights quantised while the teacher is loaded, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.interface import Backend
from opsd_cli.errors import UsageError
from tests.support import oracle, tiny_models
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import ITEMS

#: Rows of 64 numbers: a group of the quantisation.
WIDE = {**tiny_models.SETTINGS["qwen3"], "hidden_size": 64, "num_hidden_layers": 1}


def test_quantised_teacher_is_near_the_full_one_or_refused(
    load: Load, backend: Backend, tmp_path: Path
) -> None:
    wide = tiny_models.build(tmp_path / "wide", WIDE, seed=3, pad_is_end=True)
    given = {"model": str(wide), "quantize": "int8"}
    if not backend.traits.quantizes:
        with pytest.raises(UsageError, match=r"teacher\.quantize=int8"):
            load(teacher=given)
        return
    pairs = [(item.teacher_prompt, item.completion) for item in ITEMS]
    eight, four = (
        load(teacher={**given, "quantize": how}).score(pairs, "teacher", "model")
        for how in ("int8", "int4")
    )
    full = oracle.dense(wide)
    errors: dict[str, list[float]] = {"eight": [], "four": []}
    for (prompt, completion), *found in zip(pairs, eight, four, strict=True):
        log_p = full.logits(prompt, completion).log_softmax(-1)
        wanted = log_p[range(len(completion)), list(completion)].detach().numpy()
        for name, scores in zip(errors, found, strict=True):
            errors[name].append(float(np.abs(scores - wanted).max()))
    assert 1e-4 < max(errors["eight"]) < max(errors["four"])
    assert max(errors["eight"]) < 0.5
