"""A training step after sampling against TRL's trainers: the same rows, bf16, LoRA of rank 16.

As benchmarks/step.py does it on a CPU: completions are fixed random tokens, the student's prompt
has 32 tokens and the teacher's 128. Each trainer gets a model of the same random weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.device import Device
from benchmarks.gpu.models import MODELS, Work, random_ids, random_model, random_policy
from benchmarks.proof.clock import best_seconds
from benchmarks.proof.recorder import Recorder
from benchmarks.step import (
    FORMS,
    RANK,
    STUDENT_PROMPT,
    TEACHER_PROMPT,
    Timed,
    privileged,
    trl_trainer,
)

FULL = Work("Qwen3-1.7B", 4, STUDENT_PROMPT, TEACHER_PROMPT, 1024, 16_384)
TINY = Work("tiny", 2, STUDENT_PROMPT, TEACHER_PROMPT, 16, 1024)


def measure(record: Recorder) -> None:
    """Ours, then each of TRL's."""
    import torch

    device = Device()
    work = TINY if record.tiny else FULL
    record.note(f"{work.rows} completions of {work.completion:,} tokens at the shape of "
                f"{work.model}, activations kept")  # fmt: skip
    tokens = work.rows * work.completion
    with record.attempt(form=FORMS["ours"]) as row:
        row.update(ours(device, work))
        row["completion_tokens_per_second"] = tokens / row["step_s"]
    device.empty()
    vocabulary = MODELS[work.model]["vocab_size"]
    rows = torch.tensor([random_ids(vocabulary, work.completion, row) for row in range(work.rows)])
    for form, name in FORMS.items():
        if form == "ours":
            continue
        with record.attempt(form=name) as row:
            row.update(theirs(device, form, work, rows))
            row["completion_tokens_per_second"] = tokens / row["step_s"]
        device.empty()


def ours(device: Device, work: Work) -> dict[str, float]:
    """Seconds and peak above the model of our step."""
    config = work.config({"rank": RANK, "alpha": 32})
    policy = random_policy(device, work, config)
    batch = work.batch()

    def step() -> None:
        policy.accumulate(batch)
        policy.apply(1e-5)

    step()
    device.begin_peak()
    return {
        "step_s": best_seconds(step, device.wait, 2, warm=0),
        "above_model_gib": device.peak_gib(),
    }


def theirs(device: Device, form: str, work: Work, rows: Any) -> dict[str, float]:
    """The same of one of TRL's trainers."""
    from transformers import AutoTokenizer

    from benchmarks.random_models import write_tokenizer

    with tempfile.TemporaryDirectory() as made:
        write_tokenizer(Path(made), False, MODELS[work.model]["vocab_size"])
        tokenizer = AutoTokenizer.from_pretrained(made, padding_side="left")
        settings = {"use_cpu": not device.on_gpu, "bf16": device.on_gpu, "output_dir": made}
        run = trl_trainer(
            form, lambda: random_model(device, work.model), tokenizer, rows, privileged({}),
            settings, device.begin_peak,
        )  # fmt: skip
        try:
            run()
        except Timed as timed:
            seconds = min(row["wall"] for row in timed.args[0])
        return {"step_s": seconds, "above_model_gib": device.peak_gib()}
