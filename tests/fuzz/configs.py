"""Hostile values for every config key, by `--set` and in files.

    python -m tests.fuzz.configs --trials 5000 --seed 1

Each config resolves or is refused in one clear line. What resolves must also survive a round trip
through YAML and everything that a run makes of it before it loads a model: sampling, prompts,
divergence, method, plans, learning rates, seeds. Prints how many resolved, were refused, and ended
otherwise, with each of the latter.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.interface import uniforms
from backends.pytorch.traits import CPU
from opsd_cli import methods
from opsd_cli.config.presets import preset_names
from opsd_cli.config.resolve import resolve, to_yaml, validate
from opsd_cli.config.schema import Config, key_paths
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.errors import OpsdError, UsageError
from opsd_cli.evaluation.evaluate import evaluation_sampling, evaluation_view
from opsd_cli.methods.hybrid import Hybrid
from opsd_cli.planning import memory_plan
from opsd_cli.planning.model_shape import known_shape
from opsd_cli.planning.token_plan import token_plan
from opsd_cli.printable import visible_line
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.types import training_sampling
from opsd_cli.seeds import derive_seed
from opsd_cli.training.trainer import learning_rate
from tests.support.small_tokenizers import CharacterTokenizer

KEYS = [path for path, _ in key_paths()]
#: Values as typed after `key=` or written in a file.
HOSTILE = [
    "0", "1", "-1", "2", "7", "0.5", "1.0", "-0.0", "1e-320", "1e-12", "1e10", "1e30", "1e308",
    "-1e308", ".nan", ".inf", "-.inf", "nan", "inf", "1" + "0" * 30, "-1" + "0" * 30,
    "9" * 400, "9" * 5000, "0x7fffffffffffffff", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "2147483647", "2147483648", "true", "false", "yes", "~", "null", "",
    "''", "' '", "text", "[]", "{}", "[1, 2]", "[0.9, 0.999]", "[1.0, 1.5]", "[0.9]",
    "[.nan, 0.9]", "[-0.1, 2]", "[[[[1]]]]", "{a: 1}", "{1: 2}", "{null: 3}", "{[1]: 2}",
    "{enable_thinking: true}", "{enable_thinking: {a: [1]}}", "{tokenize: true}",
    "{messages: []}", "{add_generation_prompt: false}", "{a: 2020-01-01}", "{a: .nan}",
    "{true: 1}", "{a: !!binary aGk=}", "{a: !!set {x}}", "!!python/object:os.system x",
    "!!timestamp 2020-13-45", "2020-01-01", "2020-13-45", "!!binary '%%%'", "!!int abc",
    "!!float x", "&a [*a]", "*nosuch", "&a", "<<: 1", "{<<: [1]}", "{<<: {a: 1}}", "- a", "? b",
    "{", "[", "}", '"', "'", "a: b: c", "\t", "\\", "%", "@x", "`x`", "|", ">", "!", "---",
    "...", "{question}", "{solution}", "{question} {solution}", "{question}{question}",
    "{question} \\x00", '"\\0"', '"\\x85\\u2028\\ufeff"', '"\\ud800"', "\ud83d", "\x7f", "\x1b[31m",
    "é", "😀", "a" * 3000, "[" * 40, "[" * 2000, "{a: " * 200, "[" * 30 + "]" * 30,
    "[" * 200 + "]" * 200, "embedded", "cpu", "opsd", "grpo", "sft", "hybrid", "vllm", "live",
    "initial", "ema", "jsd", "token", "sampled", "cosine", "recommended", "../..", "/dev/null",
    "~", "0o17", "1_000", "1:30", "+1", "1.", ".5", "1e", "０", "Infinity", "-Infinity", "NaN",
]  # fmt: skip
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
_MERGE_BOMB = "a: &a {k0: 1}\n" + "".join(
    f"{after}: &{after} {{<<: [{', '.join([f'*{before}'] * 10)}], k{n}: 1}}\n"
    for n, (before, after) in enumerate(zip("abcdefghi", "bcdefghij", strict=True))
)
FILES = [
    "", "\n", "---\n---\n", "a\n", "- a\n", "seed: 1\nseed: 2\n", "seed: [1\n", "? [a]\n: b\n",
    "methods: 3\n", "methods: {grpo: 3}\n", "methods: {1: {}}\n", "methods: {gpro: {}}\n",
    "methods: {opsd: {method: [1]}}\n", "method: [1]\n", "method: {a: 1}\n", "method: null\n",
    "preset: [1]\n", "preset: 3\n", "preset: nosuch\n", "preset: {a: 1}\n", "model: [1]\n",
    "model: {a: b}\n", "1: 2\n", "null: 2\n", "true: 2\n", "[a]: 2\n", "{a: b}: 2\n",
    "train: 3\n", "train: [1]\n", "train: null\n", "prompts: null\n", "data: &a {train: *a}\n",
    "a: &a [*a]\n", "a: &a {b: *a}\n", _BOMB, _BOMB + "train: *j\n", _MERGE_BOMB,
    "a: " + "[" * 490 + "]" * 490 + "\n",
    "a: " + "[" * 100_000 + "\n", "a:\n" + "".join(" " * n + "a:\n" for n in range(1, 400)),
    "x" * (2**20 + 5), "\x00", "\ufeffseed: 1\n", "seed: 1\r\n", "\tseed: 1\n",
    "prompts: {student: {chat_arguments: {a: &a [1, 2], b: *a}}}\n", "seed: !!int '1'\n",
    "%YAML 9.9\n---\nseed: 1\n", "%TAG ! tag:x\n---\nseed: !y 1\n", "seed: 1\n...\nmore: [\n",
]  # fmt: skip

PROBLEM = Problem("p", "1 + 1", "1 + 1 = 2", "2", "made")
QWEN = known_shape("Qwen/Qwen3-0.6B")


def random_value(rng: random.Random) -> str:
    """A hostile value, a number of any size, or two values spliced."""
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(HOSTILE)
    if kind < 0.75:
        return str(rng.choice((1, -1)) * rng.randrange(10 ** rng.randrange(1, 40)))
    if kind < 0.9:
        return repr(rng.choice((1, -1)) * rng.random() * 10.0 ** rng.randrange(-30, 40))
    one, other = rng.choice(HOSTILE), rng.choice(HOSTILE)
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]


def random_key(rng: random.Random) -> str:
    """Nearly always a valid key, else a mangled one."""
    key = rng.choice(KEYS)
    if rng.random() > 0.06:
        return key
    return rng.choice(
        (
            key + ".x", key + ".", "." + key, key.replace(".", ".."), key[1:], "methods.grpo.seed",
            key.upper(), key + "\ud800", ".".join(["a"] * 3000), "1", "methods", "preset",
        )
    )  # fmt: skip


def random_case(rng: random.Random) -> tuple[str | None, list[str], dict[str, Any]]:
    """A file's text or None, `--set` arguments, and flags."""
    assignments = [
        f"{random_key(rng)}={random_value(rng)}" for _ in range(rng.choice((1, 1, 1, 2, 3)))
    ]
    flags: dict[str, Any] = {}
    if rng.random() < 0.1:
        number = 10 ** rng.randrange(25)
        flags = {"seed": rng.choice((-1, 0, number)), "model": rng.choice((None, "", "\ud800"))}
    kind = rng.random()
    if kind < 0.5:
        return None, assignments, flags
    if kind < 0.6:
        return rng.choice(FILES), [], {}
    lines = []
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        # One line each: nested keys in flow style, the value unchanged.
        parts = key.split(".")[:50]
        line = ": {".join(parts) + f": {value}" + "}" * (len(parts) - 1)
        lines.append(line)
    return "\n".join(lines) + "\n", [], flags


def exercise(config: Config, folder: Path) -> None:
    """Call everything that a run makes of its config before it loads a model or data."""
    path = folder / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert validate(read_tree(path)) == config
    json.dumps(config.model_dump(mode="json"), allow_nan=False)
    training_sampling(config)
    evaluation_sampling(config)
    config.divergence.spec()
    assert isinstance(config.thinks, bool) and config.model_path is not None
    assert isinstance(config.is_local, bool)
    method = methods.get(config)
    method.rollouts_per_question()
    steps = config.train.steps
    for step in {1, 2, max(1, steps // 2), steps}:
        assert learning_rate(step, steps, config.optimizer) >= 0
        assert 0 <= Hybrid(config).mix(step) <= 1
    seed = derive_seed(config.seed, "rollout", 1, "p", 0, 0)
    assert len(uniforms(seed, 3)) == 3
    json.dumps(token_plan(config, None).as_dict())
    assert QWEN is not None
    prompts = memory_plan.estimated(config, [PROBLEM])
    assert memory_plan.plan(config, QWEN, prompts, CPU.memory, True).peak > 0
    for view in (config, evaluation_view(config)):
        builder = PromptBuilder(view, CharacterTokenizer(), 4096)
        builder.student(PROBLEM)
        if builder.reference(PROBLEM) is not None:
            builder.teacher(PROBLEM)
            builder.analysis_request(PROBLEM)


def trial(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Outcome of a random case, and the case."""
    text, assignments, flags = random_case(rng)
    return outcome(text, assignments, flags, folder, rng.choice((None, *preset_names())))


def outcome(
    text: str | None,
    assignments: list[str],
    flags: dict[str, Any],
    folder: Path,
    preset: str | None = None,
) -> tuple[str, str]:
    """Returns "resolved", "refused" or what else happened, and the case."""
    case = f"{text!r:.300} {[a[:200] for a in assignments]!r} {flags!r} {preset}"
    name = preset
    if text is not None:
        path = folder / "given.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        name = str(path)
    try:
        config = resolve(name, assignments, flags)
    except UsageError as error:
        return _judged(error), case
    except Exception as error:
        return f"resolve: {type(error).__name__}: {str(error)[:200]}", case
    try:
        exercise(config, folder)
    except OpsdError as error:
        return _judged(error), case
    except Exception as error:
        return f"exercise: {type(error).__name__}: {str(error)[:200]}", case
    return "resolved", case


def _judged(error: OpsdError) -> str:
    said = visible_line(error.message) + visible_line(error.hint)  # as the command prints them
    if "\n" in said or len(error.message) > 500 or not error.message:
        return f"not one clear line: {error.message[:200]!r}"
    try:
        said.encode()
    except UnicodeEncodeError:
        return f"cannot be printed: {said[:200]!r}"
    return "refused"


def every_key_by_every_value() -> Iterator[tuple[str | None, list[str], dict[str, Any]]]:
    """Every key with every value by `--set`, then every file."""
    for key in KEYS:
        for value in HOSTILE:
            yield None, [f"{key}={value}"], {}
    for text in FILES:
        yield text, [], {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--product", action="store_true", help="every key by every value first")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = (trial(rng, folder) for _ in range(arguments.trials))
        if arguments.product:
            product = (outcome(*case, folder) for case in every_key_by_every_value())
            results = (result for part in (product, results) for result in part)
        for what, case in results:
            kind = what if what in ("resolved", "refused") else "unexpected"
            found[kind] += 1
            if kind == "unexpected":
                print(what, "\n  ", case, flush=True)
    print("tried", sum(found.values()), dict(found))


if __name__ == "__main__":
    main()
