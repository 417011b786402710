"""Stop and resume on MLX, on weights of float32 and of four bits."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from benchmarks.mac.models import TINY, batch_of, policy_of, write_model
from benchmarks.proof.recorder import Recorder
from benchmarks.proof.resuming import compare


def measure(record: Recorder) -> None:
    """With dropout, which depends on the number of updates that a checkpoint holds."""
    batch = batch_of(TINY["vocab_size"], 2, 8, 24, 16)
    for bits in (None, 4):
        weights = f"{bits} bits" if bits else "float32"
        with record.attempt(case=weights) as row, tempfile.TemporaryDirectory() as made:
            write_model(Path(made), TINY, bits)
            load = functools.partial(
                policy_of, Path(made), lora={"rank": 8, "alpha": 16, "dropout": 0.1},
                train={"dtype": "float32"},
            )  # fmt: skip
            compare(record, weights, load, batch, row)
