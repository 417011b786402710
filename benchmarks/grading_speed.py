r"""Grading speed in completions a second: ours against math-verify called in one process.

    python benchmarks/grading_speed.py --completions 2000 --rounds 3

The completions are made to resemble those of reasoning models: 500 to 12,000 characters of prose
and LaTeX, a box at the end (and now and then one before it), six in ten answers integers, the rest
fractions, roots, intervals, pairs and expressions, half of them right, one in twenty without a box.
Both grade the same pairs, in turn, in processes that are warm. CPU time counts the workers'.

    python benchmarks/grading_speed.py --against FOLDER

compares this tree with another checkout of the project instead: both in one process each, warm, in
turn, by the CPU time of the comparison itself.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser
from opsd_cli.grading.mathematics import MathGrader

SENTENCES = (
    "We first consider the case in which $n$ is odd, so that $n = 2k + 1$ for some integer $k$. ",
    "Substituting gives $$\\frac{x^2 - 3x + 2}{x - 1} = x - 2,$$ which holds for $x \\neq 1$. ",
    "Wait, let me check this again: the sum runs from $i = 0$ to $i = 12$, not to 13. ",
    "By the law of cosines, $c^2 = a^2 + b^2 - 2ab\\cos\\gamma = 49 + 64 - 112 \\cdot \\frac12$. ",
    "There are $\\binom{8}{3} = 56$ ways to choose them, and 6 of these are excluded. ",
)


def answer(kind: str, a: int, b: int) -> str:
    return {
        "integer": str(a),
        "fraction": rf"\frac{{{a}}}{{{b}}}",
        "root": rf"{b}\sqrt{{{a}}}",
        "interval": rf"\left[{-b}, {a}\right)",
        "pair": f"({a}, {b})",
        "expression": rf"x^2 + {a}x - \frac{{{b}}}{{2}}",
    }[kind]


def completions(count: int) -> list[tuple[str, str]]:
    """Pairs of a gold answer and a completion."""
    random = np.random.default_rng(0)
    kinds = ("integer", "fraction", "root", "interval", "pair", "expression")
    pairs = []
    for _ in range(count):
        kind = str(random.choice(kinds, p=(0.6, 0.15, 0.08, 0.04, 0.06, 0.07)))
        a, b = int(random.integers(2, 999)), int(random.integers(3, 90))
        said = answer(kind, a + int(random.integers(0, 2)), b)
        length = int(np.exp(random.uniform(np.log(500), np.log(12_000))))
        text = ""
        while len(text) < length:
            text += SENTENCES[int(random.integers(len(SENTENCES)))]
        if random.random() < 0.1:
            text += f"So for the first part, \\boxed{{{b}}}. " + "Now for the rest. " * 8
        if random.random() >= 0.05:
            text += f"The final answer is $\\boxed{{{said}}}$."
        pairs.append((answer(kind, a, b), text))
    return pairs


def with_math_verify(pairs: list[tuple[str, str]]) -> list[bool]:
    from math_verify import parse, verify

    return [verify(parse(f"\\boxed{{{gold}}}"), parse(text)) for gold, text in pairs]


@dataclass(frozen=True)
class Measured:
    """Seconds of wall clock and of CPU, those of worker processes included, and the grades."""

    wall: float
    cpu: float
    grades: list[bool]


def measured(work: Callable[[], list[bool]]) -> Measured:
    """Call once, with the workers running before and after."""

    def cpu() -> float:
        own = psutil.Process()
        times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
        return float(sum(spent.user + spent.system for spent in times))

    before, began = cpu(), time.perf_counter()
    grades = work()
    return Measured(time.perf_counter() - began, cpu() - before, grades)


#: Grades in its own process, once for each line it is sent, with the package of the given folder.
SERVER = """
import logging, sys, time
folder, benchmark, count = sys.argv[1:]
sys.path[:0] = [folder, benchmark]
logging.disable()
# Before this script, which adds its own tree to the path.
try:
    from opsd_cli.grading.mathematics import _grade_by_text
except ImportError:  # a tree from before graders had names
    from opsd_cli.grading import _settle as _grade_by_text
from opsd_cli.grading.compare import compare
from opsd_cli.grading.extract import completion_answer, gold_answer
from grading_speed import completions
pairs = completions(int(count))
for line in sys.stdin:
    began, right = time.process_time(), 0
    for gold_text, completion in pairs:
        gold, answer = gold_answer(gold_text), completion_answer(completion)
        if answer is not None:
            right += (_grade_by_text(gold, answer) or compare(gold, answer)) == "correct"
    print(time.process_time() - began, right, flush=True)
"""


def against(folder: Path, count: int, rounds: int) -> None:
    """Print CPU seconds of another tree and of this one, taking turns; the first round warms up."""
    here = Path(__file__).resolve()
    servers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER, str(tree), str(here.parent), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for tree in (folder.resolve(), here.parents[1])
    ]
    seconds: list[list[float]] = [[], []]
    right = ["", ""]
    for _ in range(rounds + 1):
        for i, server in enumerate(servers):
            assert server.stdin and server.stdout
            print("go", file=server.stdin, flush=True)
            spent, right[i] = server.stdout.readline().split()
            seconds[i].append(float(spent))
    for server in servers:
        server.communicate()
    for name, taken, found in zip(("other", "this"), seconds, right, strict=True):
        each = ", ".join(f"{1000 * t / count:.3f}" for t in taken[1:])
        print(f"{name} tree: {each} ms of CPU a pair; {found} of {count} right")
    ratios = [b / a for a, b in zip(*seconds, strict=True)][1:]
    print(f"this/other: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--completions", type=int, default=2000)
    options.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    given = options.parse_args()
    if given.against:
        against(given.against, given.completions, given.rounds)
        return
    pairs = completions(given.completions)
    with MathGrader() as grader:

        def ours() -> list[bool]:
            return [grade.correct for grade in grader.grade_many(pairs)]

        ours(), with_math_verify(pairs[:50])  # warm up
        rounds = [
            (measured(ours), measured(lambda: with_math_verify(pairs))) for _ in range(given.rounds)
        ]
    mine, theirs = (each.grades for each in rounds[-1])
    differing = sum(m != t for m, t in zip(mine, theirs, strict=True))
    print(
        f"{len(pairs):,} completions, {sum(mine):,} right by ours, {sum(theirs):,} by theirs, "
        f"{differing} graded differently"
    )
    report("wall", len(pairs), [(a.wall, b.wall) for a, b in rounds])
    report("CPU", len(pairs), [(a.cpu, b.cpu) for a, b in rounds])


def report(name: str, count: int, seconds: list[tuple[float, float]]) -> None:
    """Print completions a second, ours and math-verify's, and the ratio over rounds."""
    ours, theirs = (statistics.median(each) for each in zip(*seconds, strict=True))
    ratios = [b / a for a, b in seconds]
    print(
        f"{name}: ours {count / ours:,.0f}/s, math-verify {count / theirs:,.0f}/s; "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
