"""A training step after generation, against TRL's self-distillation and distillation trainers.

    python benchmarks/step.py --rounds 3
    python benchmarks/step.py --rounds 3 --model DIR

In an environment with `trl==1.16.0` and this package's dependencies. Random Qwen3 weights, LoRA of
rank 16 on all linear layers, float32, JSD of equal weights, the teacher the same model without its
adapter. Shape A: hidden 256, 4 layers, vocabulary 32,768, 8 completions of 128 tokens; shape B:
hidden 64, 2 layers, vocabulary 151,936, 2 completions of 512; with `--model`, a pretrained model
whose tokenizer splits digits (`benchmarks/real/make.py`), 8 completions of 64. The student's prompt
has 32 tokens and the teacher's 128; TRL's DistillationTrainer has no privileged context and gives
its teacher the student's prompt, which is less to read.

Generation is taken out of every trainer: completions are fixed, random tokens. What is timed is
then a step: reading both roles' sequences, loss, gradient, clipping and AdamW. Each form has a
process of its own and they take turns; the first step warms up. Printed: CPU and wall seconds a
step, medians with the least in brackets, and the peak of resident memory above the loaded model.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import (
    forget_peak,
    new_peak_mb,
    parser,
    resident_mb,
    take_turns,
    threads_here,
)
from benchmarks.random_models import build_qwen3
from benchmarks.tables import Table

SHAPES: dict[str, dict[str, int]] = {
    "A": {"hidden": 256, "layers": 4, "vocabulary": 32_768, "rows": 8, "completion": 128},
    "B": {"hidden": 64, "layers": 2, "vocabulary": 151_936, "rows": 2, "completion": 512},
}
FORMS = {
    "ours": "ours",
    "full_logits": "TRL SDFT full_logits",
    "topk_logits": "TRL SDFT topk_logits",
    "distillation": "TRL DistillationTrainer",
}
STUDENT_PROMPT, TEACHER_PROMPT = 32, 128
#: Steps after the first, which warms up.
TIMED = 2
PROMPT = "5" * STUDENT_PROMPT
RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def shape_of(name: str, folder: Path) -> dict[str, int]:
    """The shape of that name, or else of the pretrained model in the folder."""
    if name in SHAPES:
        return SHAPES[name]
    settings = json.loads((folder / "config.json").read_text())
    return {"vocabulary": settings["vocab_size"], "rows": 8, "completion": 64, "empty": 2}


def privileged(shape: dict[str, int]) -> str:
    """The reference. TRL joins it with an empty line: one token, or two with a pretrained model."""
    return "6" * (TEACHER_PROMPT - STUDENT_PROMPT - shape.get("empty", 1))


def described(folder: Path) -> str:
    """A pretrained model's case in the table."""
    settings = json.loads((folder / "config.json").read_text())
    return f"pretrained, hidden {settings['hidden_size']}, {settings['num_hidden_layers']} layers"


def build(folder: Path, shape: dict[str, int]) -> None:
    """A random Qwen3 of a shape, with a token for every row of its head."""
    hidden = shape["hidden"]
    settings = {
        "vocab_size": shape["vocabulary"], "hidden_size": hidden, "intermediate_size": 3 * hidden,
        "num_hidden_layers": shape["layers"], "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 32, "head_dim": 32, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 2,
    }  # fmt: skip
    build_qwen3(folder, settings)


def completions(shape: dict[str, int]) -> np.ndarray:
    """Random token ids [rows, completion], none of them special."""
    random = np.random.default_rng(1)
    return random.integers(64, shape["vocabulary"], (shape["rows"], shape["completion"]))


def ours(folder: Path, shape: dict[str, int], micro_batch: int) -> Callable[[], float]:
    import torch

    from backends.interface import DivergenceBatch, DivergenceItem
    from backends.pytorch.policy import load_policy
    from opsd_cli.config.resolve import resolve
    from opsd_cli.losses.divergence import DivergenceSpec

    settings = [
        f"model={folder}", f"lora.rank={RANK}", "lora.alpha=32", "train.dtype=float32",
        f"train.micro_batch_tokens={micro_batch}",
    ]  # fmt: skip
    policy = load_policy(resolve(None, settings), torch.device("cpu"), trainable=True)
    torch.set_num_threads(threads_here())
    rows = completions(shape)
    student = tuple(policy.tokenizer.encode(PROMPT))
    teacher = tuple(policy.tokenizer.encode(f"{PROMPT}\n\n{privileged(shape)}"))
    assert (len(student), len(teacher)) == (STUDENT_PROMPT, TEACHER_PROMPT)
    items = tuple(
        DivergenceItem(
            student,
            teacher,
            tuple(int(i) for i in row),
            weight=1 / rows.size,
        )
        for row in rows
    )
    batch = DivergenceBatch(items, DivergenceSpec("jsd"))

    def step() -> float:
        loss = policy.accumulate(batch).loss
        policy.apply(1e-5)
        return loss

    return step


def trl(
    form: str, folder: Path, shape: dict[str, int], warmed_up: Callable[[], object] = forget_peak
) -> Callable[[], float]:
    """TRL's trainer with fixed completions; the call trains and raises `Timed`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    rows = torch.from_numpy(completions(shape))
    settings = {"use_cpu": True, "bf16": False, "output_dir": tempfile.mkdtemp()}
    return trl_trainer(form, model, tokenizer, rows, privileged(shape), settings, warmed_up)


def trl_trainer(
    form: str,
    model: Callable[[], Any],
    tokenizer: Any,
    rows: Any,
    reference: str,
    settings: dict[str, Any],
    warmed_up: Callable[[], object],
) -> Callable[[], float]:
    """TRL's trainer of a form; the call trains and raises `Timed`.

    Args:
        form: of `FORMS`.
        model: makes the model; also the teacher, if the trainer wants its own.
        tokenizer: one that pads on the left.
        rows: completions [rows, tokens] that stand in for generated ones.
        reference: the privileged context of every prompt.
        settings: of the trainer: the folder, device and dtype.
        warmed_up: called after the first step.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.generation.utils import GenerationMixin
    from transformers.utils import logging

    logging.set_verbosity_error()

    def generate(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        return torch.cat([input_ids, rows.to(input_ids.device)], dim=1)

    GenerationMixin.generate = generate
    common = trl_settings(rows, settings)
    data = Dataset.from_dict({"prompt": [PROMPT] * 64, "privileged_context": [reference] * 64})
    lora = LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")
    times: list[dict[str, float]] = []
    clock = trl_clock(times, warmed_up)

    if form == "distillation":
        from trl import DistillationConfig, DistillationTrainer

        trainer = DistillationTrainer(
            model(), model(), DistillationConfig(beta=0.5, shuffle_dataset=False, **common),
            data.remove_columns("privileged_context"), processing_class=tokenizer,
            peft_config=lora, callbacks=[clock],
        )  # fmt: skip
    else:
        from trl.experimental.sdft import SDFTConfig, SDFTTrainer

        config = SDFTConfig(
            distillation_mode=form, distillation_alpha=0.5, distillation_topk=100,
            teacher_model_kind="base", num_generations=1, shuffle_dataset=False,
            distillation_is_clip=None, **common,
        )  # fmt: skip
        trainer = SDFTTrainer(
            model(), config, data, processing_class=tokenizer, peft_config=lora,
            callbacks=[clock],
        )  # fmt: skip

    def run() -> float:
        loss = float(trainer.train().training_loss)
        raise Timed(times[1:], loss)

    return run


def trl_clock(times: list[dict[str, float]], warmed_up: Callable[[], object]) -> Any:
    """A callback that adds the times of each step; the first step warms up."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if len(times) == 1:
                warmed_up()
            times.append({"cpu": -time.process_time(), "wall": -time.perf_counter()})

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times[-1]["cpu"] += time.process_time()
            times[-1]["wall"] += time.perf_counter()

    return Clock()


def trl_settings(rows: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What all of TRL's trainers are given: three steps on the same rows, nothing logged."""
    return {
        "per_device_train_batch_size": len(rows), "max_completion_length": rows.shape[1],
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "gradient_checkpointing": False,
        "dataloader_pin_memory": False, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "max_steps": 1 + TIMED, "learning_rate": 1e-5,
        "lr_scheduler_type": "constant", "disable_tqdm": True, **settings,
    }  # fmt: skip


class Timed(Exception):
    """Raised with the times of the steps and the mean loss."""


def measure(form: str, name: str, folder: Path, micro_batch: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads_here())
    shape = shape_of(name, folder)
    if form == "ours":
        step = ours(folder, shape, micro_batch)
        base = resident_mb()
        losses = [step()]
        forget_peak()
        times = []
        for _ in range(TIMED):
            cpu, wall = time.process_time(), time.perf_counter()
            losses.append(step())
            times.append({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall})
        loss = statistics.mean(losses)
    else:
        run = trl(form, folder, shape)
        base = resident_mb()
        try:
            run()
        except Timed as timed:
            times, loss = timed.args
    return {
        "cpu": min(row["cpu"] for row in times),
        "wall": min(row["wall"] for row in times),
        "peak_mb": new_peak_mb() - base,
        "base_mb": base,
        "loss": loss,
    }


def main() -> None:
    options = parser(__doc__, rounds=3, saves=True)
    options.add_argument("--shape", choices=SHAPES, action="append")
    options.add_argument("--model", type=Path, help="a pretrained model's folder, for --shape")
    options.add_argument("--form", choices=FORMS, action="append")
    options.add_argument("--threads", type=int, default=2, help="of each process (2)")
    options.add_argument("--micro-batch", type=int, default=16_384, help="ours: tokens at once")
    options.add_argument("--measure", nargs=3, metavar=("FORM", "SHAPE", "FOLDER"))
    given = options.parse_args()
    if given.measure:
        form, name, folder = given.measure
        print(json.dumps(measure(form, name, Path(folder), given.micro_batch)))
        return
    table = Table("step", "s")
    for name in ["model"] if given.model else given.shape or SHAPES:
        with tempfile.TemporaryDirectory() as made:
            folder = given.model or Path(made)
            if not given.model:
                build(folder, SHAPES[name])
            command = [sys.executable, __file__, "--micro-batch", str(given.micro_batch)]
            forms = {
                FORMS[form]: [*command, "--measure", form, name, folder]
                for form in given.form or FORMS
            }
            found = take_turns(
                forms,
                given.rounds,
                OMP_NUM_THREADS=str(given.threads),
                TRL_EXPERIMENTAL_SILENCE="1",
            )
        table.add(described(folder) if given.model else f"shape {name}", found)
        for form, rows in found.items():
            print(f"{form}: mean losses {[row['loss'] for row in rows]}", file=sys.stderr)
    if given.save:
        table.save()


if __name__ == "__main__":
    main()
