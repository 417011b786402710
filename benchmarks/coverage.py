"""How often a 95% interval holds the truth: 30 bimodal problems, 16 samples each.

    python benchmarks/coverage.py

Problems are solved with chances drawn from Beta(0.2, 0.3): nearly always or nearly never, as on
competition benchmarks. Prints the coverage of the interval that `opsd eval` gives, clustered by
problem, and of the usual one that takes all 480 samples for independent draws.
"""

from __future__ import annotations

import numpy as np

from opsd_cli.statistics import average_at_k

BENCHMARKS, PROBLEMS, SAMPLES = 4000, 30, 16
A, B = 0.2, 0.3


def main() -> None:
    random = np.random.default_rng(0)
    truth = A / (A + B)
    held = {"clustered by problem": 0, "independent samples": 0}
    for _ in range(BENCHMARKS):
        chance_P = random.beta(A, B, size=PROBLEMS)
        correct_PK = random.random((PROBLEMS, SAMPLES)) < chance_P[:, None]
        estimate = average_at_k(correct_PK)
        held["clustered by problem"] += estimate.low <= truth <= estimate.high
        mean = correct_PK.mean()
        half = 1.96 * np.sqrt(mean * (1 - mean) / correct_PK.size)
        held["independent samples"] += mean - half <= truth <= mean + half
    for name, count in held.items():
        print(f"{name}: {count / BENCHMARKS:.1%} of {BENCHMARKS:,} intervals hold the truth")


if __name__ == "__main__":
    main()
