"""The four methods and OPSD's variants in one table, on the embedded model and problems.

    python benchmarks/variants.py --out DIR [--seeds 2] [--rates 1,0.25] [--only "NAME;NAME"]

Every row is a run that `opsd train` makes, at every seed and at the preset's learning rate for its
method times each factor of `--rates`. Validation chooses the rate and each run's checkpoint; what
is printed is the test split at that checkpoint and at the end. Intervals resample
seeds and problems, the same draws for every row, so that differences to the first row are paired.
A finished run is not run again: an interrupted table continues with the same --out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser
from opsd_cli.comparison.jobs import Job, Progress
from opsd_cli.comparison.supervisor import run_jobs
from opsd_cli.config.resolve import resolve
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory

#: Name -> (method, what differs from the preset).
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "opsd (reverse KL, the default)": ("opsd", ()),
    "grpo": ("grpo", ()),
    "hybrid": ("hybrid", ()),
    "sft": ("sft", ()),
    "forward KL": ("opsd", ("divergence.kind=forward_kl",)),
    "JSD 0.5": ("opsd", ("divergence.kind=jsd",)),
    "reverse KL, pointwise clip 0.05": ("opsd", ("divergence.clip=pointwise",)),
    "reverse KL, per-token clip 0.05": ("opsd", ("divergence.clip=token",)),
    "forward KL, pointwise clip 0.05": (
        "opsd",
        ("divergence.kind=forward_kl", "divergence.clip=pointwise"),
    ),
    "forward KL, per-token clip 0.05": (
        "opsd",
        ("divergence.kind=forward_kl", "divergence.clip=token"),
    ),
    "JSD 0.5, pointwise clip 0.05": ("opsd", ("divergence.kind=jsd", "divergence.clip=pointwise")),
    "JSD 0.5, per-token clip 0.05": ("opsd", ("divergence.kind=jsd", "divergence.clip=token")),
    "teacher's top 8 and a tail": ("opsd", ("divergence.top_k=8",)),
    "teacher's top 8, no tail": ("opsd", ("divergence.top_k=8", "divergence.tail=false")),
    "sampled token alone": ("opsd", ("divergence.vocabulary=sampled",)),
    "live teacher": ("opsd", ("teacher.weights=live",)),
    "EMA teacher, 0.9": ("opsd", ("teacher.weights=ema", "teacher.ema_decay=0.9")),
    "mean over rollouts": ("opsd", ("train.reduction=sequences",)),
    "reason first": (
        "opsd",
        (
            "teacher.reason_first=true",
            "teacher.analysis_tokens=80",
            "preflight.enabled=false",
        ),
    ),
    "one pass": ("opsd", ("train.passes=1",)),
    "four passes": ("opsd", ("train.passes=4",)),
    "4 rollouts × 8 questions": (
        "opsd",
        ("rollouts.per_question=4", "train.questions_per_step=8"),
    ),
}
REPLICATES = 2000


@dataclass(frozen=True)
class Found:
    """One run: share of correct samples of each problem [P] at its checkpoints, and its cost."""

    validation: float
    base_P: np.ndarray
    best_P: np.ndarray
    final_P: np.ndarray
    generated: int
    length: tuple[float, float]
    entropy: tuple[float, float]


def job(name: str, factor: float, seed: int, extra: list[str]) -> Job:
    """The run of a variant, with its method's learning rate times a factor."""
    method, assignments = VARIANTS[name]
    given = ["train.patience=null", *extra, *assignments]
    config = resolve("embedded", given, {"method": method, "seed": seed, "backend": "cpu"})
    rate = config.optimizer.learning_rate * factor
    optimizer = config.optimizer.model_copy(update={"learning_rate": rate})
    slug = "".join(c if c.isalnum() else "-" for c in name)
    return Job(f"{slug}-x{factor:g}-s{seed}", name, config.model_copy(
        update={"optimizer": optimizer}))  # fmt: skip


def read(run: Path) -> Found:
    """Read the results of a finished run."""
    rows = list(read_rows(run / run_directory.EVALUATIONS))
    result = json.loads((run / run_directory.RESULT).read_text(encoding="utf-8"))
    test = {r["step"]: np.array(r["correct"]) for r in rows if r["split"] == "test"}
    metrics = list(read_rows(run / run_directory.METRICS))

    def ends(key: str) -> tuple[float, float]:
        values = [float(row.get(key, np.nan)) for row in metrics]
        return float(np.mean(values[:3])), float(np.mean(values[-3:]))

    return Found(
        validation=max(r["accuracy"]["value"] for r in rows if r["split"] == "validation"),
        base_P=test[0],
        best_P=test[result["best_step"]],
        final_P=test[result["steps"]],
        generated=result["tokens"]["generated"],
        length=ends("completion_tokens"),
        entropy=ends("entropy"),
    )


def chosen(directory: Path, jobs: list[Job]) -> tuple[float, list[Found]]:
    """The learning rate of the best validation accuracy, and its runs, one per seed."""
    by_rate: dict[float, list[Found]] = {}
    for entry in jobs:
        rate = entry.config.optimizer.learning_rate
        by_rate.setdefault(rate, []).append(read(directory / entry.name))
    best = max(by_rate, key=lambda rate: (np.mean([f.validation for f in by_rate[rate]]), -rate))
    return best, by_rate[best]


def rows_of(table: dict[str, tuple[float, list[Found]]]) -> list[str]:
    """The table's lines, in Markdown."""
    random = np.random.default_rng(0)
    first = next(iter(table.values()))[1]
    seeds, problems = len(first), len(first[0].best_P)
    draws = [
        (random.integers(0, seeds, seeds), random.integers(0, problems, problems))
        for _ in range(REPLICATES)
    ]

    def stack(found: list[Found], which: str) -> np.ndarray:
        return np.stack([getattr(f, which) for f in found])

    def interval(values_SP: np.ndarray) -> tuple[float, float]:
        drawn = [values_SP[np.ix_(s, p)].mean() for s, p in draws]
        return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))

    lines = [
        "| variant | rate | best checkpoint (95%) | against the default (95%) | at the end "
        "| generated | entropy first → last | length first → last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = stack(first, "base_P").mean()
    lines.append(f"| base | | {base:.1%} | | | | | |")
    for name, (rate, found) in table.items():
        best, final = stack(found, "best_P"), stack(found, "final_P")
        low, high = interval(best)
        gap = best - stack(first, "best_P")
        gap_low, gap_high = interval(gap)
        against = "" if found is first else f"{gap.mean():+.1%} ({gap_low:+.1%} to {gap_high:+.1%})"
        entropy, length = (
            np.mean([getattr(f, key) for f in found], axis=0) for key in ("entropy", "length")
        )
        generated = np.mean([f.generated for f in found])
        lines.append(
            f"| {name} | {rate:g} | {best.mean():.1%} ({low:.1%}–{high:.1%}) | {against} "
            f"| {final.mean():.1%} | {generated / 1000:.1f}k "
            f"| {_pair(entropy, '.3f')} | {_pair(length, '.0f')} |"
        )
    return lines


def _pair(values: Any, form: str) -> str:
    return "–" if np.isnan(values).any() else f"{values[0]:{form}} → {values[1]:{form}}"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--only", default=";".join(VARIANTS), help="separated by semicolons")
    options.add_argument("--set", action="append", default=[], help="further config, for all")
    options.add_argument(
        "--rates", default="1", help="factors of the preset's learning rate, separated by commas"
    )
    options.add_argument("--jobs", type=int, default=2, help="runs at once")
    given = options.parse_args()
    names = given.only.split(";")
    jobs = {
        name: [job(name, float(factor), seed, given.set) for factor in given.rates.split(",")
               for seed in range(given.seeds)]
        for name in names
    }  # fmt: skip
    done: set[str] = set()

    def tell(progress: list[Progress]) -> None:
        for entry in progress:
            if entry.state == "done" and entry.job.name not in done:
                done.add(entry.job.name)
                print(f"{entry.job.name}: {entry.accuracy:.1%}", file=sys.stderr, flush=True)

    run_jobs(given.out, [entry for each in jobs.values() for entry in each], given.jobs, tell)
    table = {name: chosen(given.out, each) for name, each in jobs.items()}
    print("\n".join(rows_of(table)))


if __name__ == "__main__":
    main()
