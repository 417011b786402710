"""Coverage of the 95% intervals: how often they contain the truth, on simulated benchmarks.

    python benchmarks/interval_coverage.py

Each benchmark has 30 problems with 16 samples. The probability of solving a problem is drawn from
Beta(0.2, 0.3): nearly 1 or nearly 0, as on competition benchmarks. Prints the coverage of the
interval of `opsd eval`, clustered by problem, and of the usual one, which takes all 480 samples for
independent draws.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser
from opsd_cli.statistics import average_at_k

BENCHMARKS, PROBLEMS, SAMPLES = 4000, 30, 16
A, B = 0.2, 0.3


def main() -> None:
    parser(__doc__).parse_args()
    random = np.random.default_rng(0)
    truth = A / (A + B)
    covered = {"clustered by problem": 0, "independent samples": 0}
    for _ in range(BENCHMARKS):
        chance_P = random.beta(A, B, size=PROBLEMS)
        correct_PK = random.random((PROBLEMS, SAMPLES)) < chance_P[:, None]
        estimate = average_at_k(correct_PK)
        covered["clustered by problem"] += estimate.low <= truth <= estimate.high
        mean = correct_PK.mean()
        half = 1.96 * np.sqrt(mean * (1 - mean) / correct_PK.size)
        covered["independent samples"] += mean - half <= truth <= mean + half
    for name, count in covered.items():
        print(f"{name}: {count / BENCHMARKS:.1%} of {BENCHMARKS:,} intervals hold the truth")


if __name__ == "__main__":
    main()
