"""One adapter, four readers: greedy completions of the embedded model on 50 test problems.

    python benchmarks/exchange.py RUN [RUN ...] [--problems 50]

For each run (train one with `--backend cpu` and one with `--backend mlx`): its best adapter is
loaded by this package's PyTorch and MLX backends, by plain peft over transformers, and, exported,
by plain mlx-lm. Printed is how many problems each answers token for token as the run's own backend
does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backends import get
from backends.interface import RolloutRequest, Sampling
from backends.shared import adapter_files
from benchmarks.measuring import parser
from opsd_cli.config.resolve import resolve, validate
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.loading import adapter_folder
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder

LIMIT = 80
Words = dict[str, tuple[int, ...]]


def by_backend(name: str, adapter: Path, prompts: dict[str, tuple[int, ...]]) -> Words:
    """This package's own backend."""
    config = resolve("embedded", [], {"backend": name, "adapter": str(adapter)})
    policy = get(name).load(config, trainable=False)
    requests = [RolloutRequest(key, 0, ids, 0) for key, ids in prompts.items()]
    drawn = policy.generate(requests, Sampling(temperature=0.0, max_new_tokens=LIMIT))
    return {r.request.problem_id: r.completion_ids for r in drawn}


def by_peft(adapter: Path, prompts: dict[str, tuple[int, ...]], base: str) -> Words:
    """transformers' generate over PEFT's model, one prompt at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(base)
    model: Any = PeftModel.from_pretrained(plain, str(adapter)).eval()
    words = {}
    for key, ids in prompts.items():
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=LIMIT
            )
        words[key] = tuple(out[0, len(ids) :].tolist())
    return words


def by_mlx_lm(adapter: Path, prompts: dict[str, tuple[int, ...]], base: str) -> Words:
    """mlx-lm's stream_generate over what `opsd export --format mlx` writes."""
    from mlx_lm import load, stream_generate

    with tempfile.TemporaryDirectory() as folder:
        settings = adapter_files.read_settings(adapter)
        adapter_files.write_mlx(Path(folder), adapter_files.read_weights(adapter), settings)
        model, tokenizer = load(base, adapter_path=folder)
    return {
        key: tuple(
            response.token
            for response in stream_generate(model, tokenizer, list(ids), max_tokens=LIMIT)
        )
        for key, ids in prompts.items()
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options.add_argument("--problems", type=int, default=50)
    given = options.parse_args()
    print("| trained on | PyTorch here | MLX here | peft | mlx-lm |")
    print("|---|---|---|---|---|")
    for run in given.runs:
        config = validate(read_tree(run / "config.yaml"))
        adapter = adapter_folder(run)
        policy = get("cpu").load(resolve("embedded", [], {"backend": "cpu"}), trainable=False)
        builder = PromptBuilder(config, policy.tokenizer)
        problems = load_splits(config).test.problems[: given.problems]
        prompts = {problem.id: builder.student(problem).ids for problem in problems}
        found = {
            "cpu": by_backend("cpu", adapter, prompts),
            "mlx": by_backend("mlx", adapter, prompts),
            "peft": by_peft(adapter, prompts, config.model_path),
            "mlx-lm": by_mlx_lm(adapter, prompts, config.model_path),
        }
        own = found[config.backend]
        same = (sum(words[key] == own[key] for key in prompts) for words in found.values())
        cells = " | ".join(f"{count} of {len(prompts)}" for count in same)
        print(f"| {config.backend} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
