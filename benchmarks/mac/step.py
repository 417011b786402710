"""A training step against mlx_lm.lora's trainer, as benchmarks/mlx_step.py compares them."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.mac.models import FULL, TINY, write_model
from benchmarks.proof.recorder import Recorder

#: (rows, prompt, completion, layers)
WORK, TINY_WORK = (4, 64, 512), (2, 8, 24)


def measure(record: Recorder) -> None:
    """Both take turns in one process; the first round warms up."""
    import mlx.core as mx

    from benchmarks import mlx_step

    rows, prompt, completion = TINY_WORK if record.tiny else WORK
    shape = TINY if record.tiny else FULL
    rounds = 1 if record.tiny else 3
    spent: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}

    def written(folder: Path, settings: dict[str, Any], **_: Any) -> None:
        write_model(folder, settings)

    changed = mock.patch.multiple(
        mlx_step, MODEL=shape, ROWS=rows, PROMPT=prompt, COMPLETION=completion, build_qwen3=written
    )
    with tempfile.TemporaryDirectory() as made, changed:
        forms = mlx_step.forms(Path(made), False)
        for number in range(rounds + 1):
            for form, steps in forms.items():
                mx.clear_cache()
                mx.reset_peak_memory()
                start = time.perf_counter()
                steps(1)
                mx.synchronize()
                if number:
                    spent.setdefault(form, []).append(time.perf_counter() - start)
                    peaks[form] = mx.get_peak_memory() / 2**30
    layers, hidden = shape["num_hidden_layers"], shape["hidden_size"]
    record.note(
        f"{rows} rows of {prompt} + {completion} tokens, float32, hidden size {hidden}, "
        f"{layers} layers"
    )
    theirs = statistics.median(spent[mlx_step.THEIRS])
    for form, seconds in spent.items():
        median = statistics.median(seconds)
        record.row(form=form.strip(), step_s=median, over_mlx_lm=median / theirs,
                   peak_gib=peaks[form])  # fmt: skip
