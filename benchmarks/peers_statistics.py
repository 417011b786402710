r"""Our statistics, lighteval's and lm-evaluation-harness's on the same samples.

    python benchmarks/peers_statistics.py make samples.json
    python benchmarks/peers_statistics.py ours samples.json
    python benchmarks/peers_statistics.py lighteval samples.json   # lighteval[math]==0.13.0
    python benchmarks/peers_statistics.py lm-eval samples.json     # lm-eval==0.4.13

Each prints one row of `results/peers_statistics.md`; the peers need an environment of their own.
Thirty problems, sixteen completions each. Whether a completion is right is decided before it is
written, and answers are then spelt in the ways models spell them (\frac12, 0.5, 1/2; 1,024), some
after an intermediate box, some cut off before any. Wrong answers cluster, as models' do.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser

PROBLEMS, SAMPLES, K = 30, 16, 8


def make(path: Path) -> None:
    """Write problems with gold answers and completions, and which of these are correct."""
    random = np.random.default_rng(20)
    problems = []
    for number in range(PROBLEMS):
        kind = ("integer", "fraction", "root")[number % 3] if number >= 12 else "integer"
        gold = _value(kind, int(random.integers(2, 900)), int(random.integers(3, 40)))
        near = (_value(kind, gold[1] + d, gold[2]) for d in (1, 7, 13, 19, 25))
        traps = [trap for trap in dict.fromkeys(near) if trap != gold][:3]
        chance = random.beta(0.5, 0.5)
        completions, truth = [], []
        for _ in range(SAMPLES):
            right = bool(random.random() < chance)
            trap = traps[int(random.choice(3, p=(0.6, 0.3, 0.1)))]
            text, cut = _completion(gold if right else trap, random)
            completions.append(text)
            truth.append(right and not cut)
        problems.append(
            {"gold": _spelt(gold, 0), "question": f"P{number}", "completions": completions,
             "truth": truth}
        )  # fmt: skip
    path.write_text(json.dumps(problems, indent=1))


def _value(kind: str, a: int, b: int) -> tuple[str, int, int]:
    if kind == "fraction" and math.gcd(a, b) > 1:
        return _value(kind, a + 1, b)
    return kind, max(2, a), b


def _spelt(value: tuple[str, int, int], way: int) -> str:
    kind, a, b = value
    over = f"{{{a}}}{{{b}}}"
    ways = {
        "integer": (str(a), f"{a:,}", f"{a}.0", rf"\text{{{a}}}"),
        "fraction": (rf"\frac{over}", rf"\dfrac{over}", f"{a}/{b}", rf"\tfrac{over}"),
        "root": tuple(rf"{b}{dot}\sqrt{{{a}}}" for dot in ("", " ", r"\cdot", "*")),
    }
    return ways[kind][way]


def _completion(value: tuple[str, int, int], random: np.random.Generator) -> tuple[str, bool]:
    way = int(random.choice(4, p=(0.7, 0.14, 0.1, 0.06)))
    steps = "Let us work it out. " * int(random.integers(3, 30))
    if random.random() < 0.06:
        return steps, True
    first = "Try the case $n=3$: \\boxed{3}. That is not general. " if random.random() < 0.1 else ""
    return f"{steps}{first}So the answer is $\\boxed{{{_spelt(value, way)}}}$.", False


def ours(problems: list[dict[str, Any]]) -> dict[str, Any]:
    from opsd_cli.evaluation.samples import Sample, assemble
    from opsd_cli.grading.mathematics import MathGrader

    samples = []
    with MathGrader() as grader:
        for problem in problems:
            grades = grader.grade_many([(problem["gold"], c) for c in problem["completions"]])
            samples += [
                Sample(problem["question"], i, text, 0, "stop", g.answer, g.status, g.correct)
                for i, (text, g) in enumerate(zip(problem["completions"], grades, strict=True))
            ]
        result = assemble("made", [p["question"] for p in problems], samples, SAMPLES)
        result = result.with_votes(grader)
    from opsd_cli.statistics import pass_at_k

    return {
        "graded": result.correct_PK.tolist(),
        "avg": (result.accuracy.value, result.accuracy.low, result.accuracy.high),
        "pass": pass_at_k(result.correct_PK, K).value,
        "maj": result.majority.value,
    }


def lighteval(problems: list[dict[str, Any]]) -> dict[str, Any]:
    from lighteval.metrics.metrics import Metrics
    from lighteval.metrics.utils.stderr import mean_stderr
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    avg = Metrics.avg_at_n_math.value.sample_level_fn
    pass_at = Metrics.pass_at_k_math.value.sample_level_fn
    majority = Metrics.maj_at_n.value.sample_level_fn
    avg.n, pass_at.k, pass_at.n, majority.n = SAMPLES, K, SAMPLES, SAMPLES
    graded = []
    rows: dict[str, list[float]] = {"avg": [], "pass": [], "maj": []}
    for problem in problems:
        # In dollars: bare, its parser reads 2\\sqrt{3} as 2.
        doc = Doc(query=problem["question"], choices=[f"${problem['gold']}$"], gold_index=0)
        response = ModelResponse(text=problem["completions"])
        graded.append(
            [bool(avg.compute_score(doc, ModelResponse(text=[t]))) for t in problem["completions"]]
        )
        rows["avg"].append(avg.compute(doc, response))
        rows["pass"].append(pass_at.compute(doc, response))
        rows["maj"].append(majority.compute(doc, response))
    mean, error = float(np.mean(rows["avg"])), mean_stderr(rows["avg"])
    return {
        "graded": graded,
        "avg": (mean, mean - 1.96 * error, mean + 1.96 * error),
        "pass": float(np.mean(rows["pass"])),
        "maj": float(np.mean(rows["maj"])),
    }


def lm_eval(problems: list[dict[str, Any]]) -> dict[str, Any]:
    from lm_eval.api.metrics import mean_stderr
    from lm_eval.filters.selection import MajorityVoteFilter
    from lm_eval.tasks.aime.utils import process_results

    def right(text: str, gold: str) -> bool:
        return bool(process_results({"answer": gold}, [text])["exact_match"])

    graded = [[right(t, p["gold"]) for t in p["completions"]] for p in problems]
    # What a task with `repeats: 16` reports: every filter of its own accord ends in take_first.
    first = [float(row[0]) for row in graded]
    votes = MajorityVoteFilter().apply([p["completions"] for p in problems], [])
    majority = [right(v[0], p["gold"]) for v, p in zip(votes, problems, strict=True)]
    mean, error = float(np.mean(first)), mean_stderr(first)
    return {
        "graded": graded,
        "avg": (mean, mean - 1.96 * error, mean + 1.96 * error),
        "pass": None,
        "maj": float(np.mean(majority)),
    }


def row(name: str, problems: list[dict[str, Any]], found: dict[str, Any]) -> str:
    truth = np.array([p["truth"] for p in problems])
    graded = np.array(found["graded"])
    refused, accepted = int((truth & ~graded).sum()), int((~truth & graded).sum())
    value, low, high = (100 * x for x in found["avg"])
    passed = "–" if found["pass"] is None else f"{100 * found['pass']:.1f}%"
    return (
        f"| {name} | {refused} | {accepted} | {value:.1f}% ({low:.1f} to {high:.1f}) | {passed} "
        f"| {100 * found['maj']:.1f}% |"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=("make", "ours", "lighteval", "lm-eval"))
    options.add_argument("samples", type=Path, help="the file that `make` writes")
    given = options.parse_args()
    what, path = given.what, given.samples
    if what == "make":
        make(path)
        return
    problems = json.loads(path.read_text())
    if what == "ours":
        from opsd_cli.statistics import average_at_k, pass_at_k

        truth = np.array([p["truth"] for p in problems])
        average = average_at_k(truth)
        found = {
            "graded": truth,
            "avg": (average.value, average.low, average.high),
            "pass": pass_at_k(truth, K).value,
            "maj": float("nan"),
        }
        print(row("the truth, by construction", problems, found).replace("nan%", "–"))
        print(row("opsd", problems, ours(problems)))
    elif what == "lighteval":
        print(row("lighteval 0.13.0", problems, lighteval(problems)))
    else:
        print(row("lm-evaluation-harness 0.4.13", problems, lm_eval(problems)))


if __name__ == "__main__":
    main()
