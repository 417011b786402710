"""Stop and resume on the GPU's backend, with the tiny model that the other sections use too."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.gpu.device import Device
from benchmarks.gpu.models import LORA, Work, random_policy
from benchmarks.proof.recorder import Recorder
from benchmarks.proof.resuming import compare

WORK = Work("tiny", rows=4, student=8, teacher=24, completion=32, micro_batch=128)


def measure(record: Recorder) -> None:
    """With dropout, which depends on a checkpoint's number of updates; activations kept or not."""
    device = Device()
    for recomputed in (False, True):
        kept = "recomputed" if recomputed else "kept"
        lora = {**LORA, "dropout": 0.1}
        config = WORK.config(lora, gradient_checkpointing=recomputed)
        load = functools.partial(loaded, device, config)
        with record.attempt(case=f"activations {kept}, {device.dtype}") as row:
            compare(record, f"activations {kept}", load, WORK.batch(), row)


def loaded(device: Device, config: Any) -> Any:
    """A new policy; the weights are the same each time."""
    return random_policy(device, WORK, config)
