"""The figures of the real comparison: kept as JSON, and as the lines that docs/real.md has of them.

    python -m benchmarks.real.result COMPARISON --kit DIR --commit HASH --minutes N \\
        --other leg_counting:1=RUN --other gsm_symbolic=RUN

`COMPARISON` is the directory of `opsd compare`, and each `--other` a run on another family of the
same kit. Written is `benchmarks/results/real.json`; tests/test_readme.py compares README.md and
docs/real.md with it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.measuring import parser
from benchmarks.tables import RESULTS

PATH = RESULTS / "real.json"
FAMILY = "family_relationships"
COMMANDS = (
    "python -m benchmarks.real.make --out kit --seed 1",
    "opsd compare --config benchmarks/real/family.yaml --methods opsd,grpo,sft --seeds 3 --jobs 2",
)
OTHERS = "opsd train --config benchmarks/real/family.yaml --config benchmarks/real/{} --set seed={}"
CONFIGS = {"leg_counting": "legs.yaml", "gsm_symbolic": "gsm.yaml"}
INTERVAL = {"value": "accuracy", "low": "low", "high": "high"}
CALLED = {"opsd": "OPSD", "grpo": "GRPO", "sft": "SFT on the references"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def tests_of(run: Path) -> dict[str, list[Any]]:
    """A run's evaluations on the test split: steps, accuracies, intervals, flexible accuracies."""
    rows = [row for row in rows_of(run / "evaluations.jsonl") if row["split"] == "test"]
    return {
        "steps": [row["step"] for row in rows],
        "accuracy": [rounded(row["accuracy"]["value"]) for row in rows],
        "low": [rounded(row["accuracy"]["low"]) for row in rows],
        "high": [rounded(row["accuracy"]["high"]) for row in rows],
        "flexible": [rounded(row["flexible_accuracy"]["value"]) for row in rows],
        "no_answer": [rounded(row["no_answer"]) for row in rows],
    }


def rounded(value: Any) -> Any:
    """The same with each float to eight significant figures."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.8g}") if isinstance(value, float) else value


def method_of(folder: Path, method: dict[str, Any]) -> dict[str, Any]:
    """A method of comparison.json: accuracies, what it spent, and each seed's test accuracies."""
    runs = [folder / Path(name).name for name in method["runs"]]
    found = {
        "base": method["base_accuracy"],
        "best": method["accuracy"],
        "last": method["curve"]["accuracy"][-1],
        "tokens": method["tokens"],
        "spent": method["spent"],
        "learning_rate": method["learning_rate"],
        "steps": method["steps"],
    }
    each = zip(method["seeds"], map(tests_of, runs), strict=True)
    return {
        **{key: rounded(value) for key, value in found.items()},
        "tests": {str(seed): tests for seed, tests in each},
    }


def other_of(family: str, run: Path, seed: int) -> dict[str, Any]:
    """A run on another family: the preflight's accuracies, those on test, and generated tokens."""
    preflight = json.loads((run / "preflight.json").read_text())
    metrics = rows_of(run / "metrics.jsonl")
    result = json.loads((run / "result.json").read_text())
    return {
        "family": family,
        "seed": seed,
        "command": OTHERS.format(CONFIGS[family], seed),
        "preflight": {role: rounded(preflight[role]) for role in ("student", "teacher")},
        "preflight_problems": preflight["problems"],
        "tests": tests_of(run),
        "test_problems": len(rows_of(run / "evaluations.jsonl")[0]["correct"]),
        "tokens": result["tokens"],
        "divergence": [rounded(metrics[at]["divergence"]) for at in (0, -1)],
    }


def comparison_of(folder: Path, kit: Path) -> dict[str, Any]:
    """The comparison's figures, without its paths.

    Args:
        folder: of `opsd compare`.
        kit: of `benchmarks.real.make`; its test problems say what a constant answer gets.
    """
    found = json.loads((folder / "comparison.json").read_text())
    problems = rows_of(kit / "problems" / f"{FAMILY}-test.jsonl")[: found["test_problems"]]
    (_, most), *_ = Counter(row["answer"] for row in problems).most_common(1)
    return {
        "family": FAMILY,
        "seeds": found["seeds"],
        "test_problems": found["test_problems"],
        "constant_answer": rounded(most / len(problems)),
        "target_accuracy": rounded(found["target_accuracy"]),
        "target_from": found["target_from"],
        "methods": {
            name: method_of(folder, method) for name, method in found["methods"].items()
        },
        "ratios": {counted: rounded(ratio) for counted, ratio in found["efficiency"].items()},
        "differences": [rounded(each) for each in found["differences"]],
    }  # fmt: skip


def ratio(value: float) -> str:
    """As the pages have it: two decimals below 1.5, one above."""
    return f"{value:.2f}" if value < 1.5 else f"{value:.1f}"


def ratio_with_interval(of: dict[str, Any]) -> str:
    """A ratio of costs with its interval."""
    return f"{ratio(of['ratio'])} ({ratio(of['low'])} to {ratio(of['high'])})"


def percent(of: dict[str, float], decimals: int) -> str:
    """An accuracy with its interval."""
    return f"{of['value']:.{decimals}%} ({100 * of['low']:.1f}–{100 * of['high']:.1f})"


def thousands(count: float) -> str:
    return f"{count / 1000:.0f}k"


def lines(saved: dict[str, Any]) -> list[str]:
    """The rows of docs/real.md's two tables."""
    made = []
    for name, method in saved["methods"].items():
        tokens, spent = method["tokens"], method["spent"]
        made.append(
            f"| {CALLED[name]} | {method['base']:.1%} | {percent(method['best'], 1)} "
            f"| {method['last']:.1%} | {tokens['generated']:,.0f} "
            f"| {tokens['teacher_scored']:,.0f} | {thousands(spent['all'])} "
            f"| {spent['cpu_seconds']:.0f} |"
        )
    for other in saved["others"]:
        student, teacher = (other["preflight"][role]["value"] for role in ("student", "teacher"))
        tests = other["tests"]
        before, between, after = (
            {key: tests[of][at] for key, of in INTERVAL.items()} for at in range(3)
        )
        made.append(
            f"| `{other['family']}`, seed {other['seed']} | {student:.0%}, {teacher:.0%} "
            f"| {percent(before, 0)} | {between['value']:.0%} | {percent(after, 0)} "
            f"| {other['tokens']['generated'] / 1000:.1f}k |"
        )
    return made


def compact(saved: dict[str, Any]) -> str:
    """JSON with a line for each value, and lists of numbers on one line."""
    text = json.dumps(saved, indent=1)
    return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("comparison", type=Path, help="the directory of opsd compare")
    options.add_argument("--kit", type=Path, required=True, help="the folder of its problems")
    options.add_argument("--commit", required=True, help="at which it was measured")
    options.add_argument("--minutes", type=int, required=True, help="that the command took")
    options.add_argument("--other", action="append", default=[], metavar="FAMILY[:SEED]=RUN")
    given = options.parse_args()
    others = []
    for other in given.other:
        name, run = other.split("=", 1)
        family, _, seed = name.partition(":")
        others.append(other_of(family, Path(run), int(seed or 0)))
    saved = {
        "commands": COMMANDS,
        "commit": given.commit,
        "minutes": given.minutes,
        **comparison_of(given.comparison, given.kit),
        "others": others,
    }
    PATH.write_text(compact(saved))
    print("\n".join(lines(saved)))


if __name__ == "__main__":
    main()
