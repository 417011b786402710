"""The table of divergences that chose the embedded default.

    python tests/benchmarks/divergences.py [--seeds 3] [--rates 1e-3,3e-3] [--steps 60] [--jobs 2]

Every kind of divergence with every clip, each at each learning rate, on the embedded model and
problems. Only validation accuracy is measured, at the end of each run; the test split is not read.
Runs are short, so differences below the printed spread say nothing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

Variant = tuple[str, str, float]


def run(job: tuple[Variant, int, int, tuple[str, ...]]) -> tuple[Variant, float, float, float]:
    """One short run: validation accuracy at its start and end, and CPU seconds of training."""
    import torch

    import backends
    from opsd_cli.problems.sources import Splits, load_splits
    from opsd_cli.resolve import resolve
    from opsd_cli.runs import EVALUATIONS, Run
    from opsd_cli.training import train

    (kind, clip, rate), seed, steps, extra = job
    torch.set_num_threads(1)
    config = resolve(
        "embedded",
        [
            f"divergence.kind={kind}",
            f"divergence.clip={clip}",
            f"optimizer.learning_rate={rate}",
            f"train.steps={steps}",
            f"train.evaluate_every={steps}",
            f"train.checkpoint_every={steps}",
            "train.patience=null",
            "preflight.enabled=false",
            "backend=cpu",
            *extra,
        ],
        {"seed": seed},
    )
    splits = load_splits(config)
    # The loop reports on a test split; here it is given the validation problems instead.
    splits = Splits(splits.train, splits.validation, splits.validation)
    with tempfile.TemporaryDirectory() as folder:
        with Run.create(Path(folder) / "run", config, {}) as opened:
            policy = backends.get("cpu").load(config, trainable=True)
            result = train(policy, splits, opened)
        rows: list[dict[str, Any]] = [
            row for row in opened.rows(EVALUATIONS) if row["split"] == "validation"
        ]
    return (
        job[0],
        rows[0]["accuracy"]["value"],
        rows[-1]["accuracy"]["value"],
        (result.training_cpu_seconds),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="tuning seeds, counted from 1000")
    parser.add_argument("--rates", default="1e-3,3e-3")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kinds", default="forward_kl,reverse_kl,jsd")
    parser.add_argument("--clips", default="none,token,pointwise")
    parser.add_argument("--set", action="append", default=[], help="further config, for all")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    rates = [float(rate) for rate in given.rates.split(",")]
    variants = list(itertools.product(given.kinds.split(","), given.clips.split(","), rates))
    seeds = range(1000, 1000 + given.seeds)
    jobs = [(v, seed, given.steps, tuple(given.set)) for v in variants for seed in seeds]
    results: dict[Variant, list[tuple[float, float, float]]] = {variant: [] for variant in variants}
    with ProcessPoolExecutor(given.jobs) as pool:
        for variant, before, after, seconds in pool.map(run, jobs):
            results[variant].append((before, after, seconds))
            print(f"{variant}: {before:.3f} -> {after:.3f}", file=sys.stderr, flush=True)
    print("| divergence | clip | learning rate | validation before | after (least–most) | CPU-s |")
    print("|---|---|---|---|---|---|")
    for (kind, clip, rate), found in results.items():
        before, after, seconds = (list(column) for column in zip(*found, strict=True))
        print(
            f"| {kind} | {clip} | {rate:g} | {statistics.mean(before):.1%} "
            f"| {statistics.mean(after):.1%} ({min(after):.1%}–{max(after):.1%}) "
            f"| {statistics.mean(seconds):.0f} |"
        )


if __name__ == "__main__":
    main()
