"""Make the problems and the base model of each domain, train it by OPSD, and report the gain.

    python -m benchmarks.domains --out domains                  # all; minutes for each domain
    python -m benchmarks.domains --out domains --only choice --seeds 3
    python -m benchmarks.domains --out domains --make-only      # problems and models, no runs

What is there is not made again: a domain's folder from the same sources, a run that has finished.
`DIR/results.json` and `DIR/results.md` have the result. Exit code 1: a run failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.domains.base import Measured
from benchmarks.domains.kit import config_of, make
from benchmarks.domains.registry import DOMAINS
from benchmarks.domains.results import MEASURED, Outcome, correct_of, outcome_of, table
from opsd_cli import evaluate, load_config, train
from opsd_cli.errors import OpsdError
from opsd_cli.files.atomic_write import write_atomic


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.domains",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, or of before")
    made.add_argument("--only", metavar="NAME,NAME", help=f"of {', '.join(DOMAINS)}")
    made.add_argument("--seeds", type=int, default=1, help="runs of each domain (1)")
    made.add_argument("--first-seed", type=int, default=0, help="their first seed (0)")
    made.add_argument("--make-only", action="store_true", help="no runs")
    return made


def reported(name: str, step: int, loss: float, measured: Measured | None) -> None:
    """Print a measurement of pretraining."""
    if measured is not None:
        print(
            f"{name}: pretraining step {step}, loss {loss:.3f}, validation right "
            f"{measured.without_reference:.0%} without the reference, "
            f"{measured.with_reference:.0%} with it, "
            f"{measured.with_another:.0%} with that of another problem",
            flush=True,
        )


def remeasured(name: str, folder: Path, run: Path, seed: int, grader: str) -> None:
    """Measure base and best checkpoint on the test problems by a grader that is not the run's."""
    if (run / MEASURED).is_file():
        return
    config = config_of(DOMAINS[name], folder, seed=seed, **{"grading.grader": grader})
    before, after = (
        evaluate(each, "test").only.correct_PK.mean(axis=1).tolist()
        for each in (config, load_config(config, adapter=str(run)))
    )
    write_atomic(run / MEASURED, json.dumps({"before": before, "after": after}))


def trained(name: str, folder: Path, seeds: range) -> Outcome:
    """The result of a domain's runs, which are made where they have not finished."""
    runs = []
    for seed in seeds:
        run = folder / f"run-{seed}"
        config = config_of(DOMAINS[name], folder, seed=seed)
        if not (run / "result.json").is_file():
            train(config, run) if not run.exists() else train(out=run, resume=True)
        if measured_by := DOMAINS[name].measured_by:
            remeasured(name, folder, run, seed, measured_by)
        before, after = map(statistics.mean, correct_of(run))
        print(f"{name}: seed {seed}, test {before:.1%} before, {after:.1%} after", flush=True)
        runs.append(run)
    return outcome_of(name, config_of(DOMAINS[name], folder).grading.grader, runs)


def main() -> int:
    arguments = parser().parse_args()
    names = arguments.only.split(",") if arguments.only else list(DOMAINS)
    unknown = [name for name in names if name not in DOMAINS]
    if unknown:
        parser().error(
            f"--only: there is no domain {unknown[0]!r}; choose from {', '.join(DOMAINS)}"
        )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    outcomes: list[Outcome] = []
    failed = 0
    for name in names:
        folder = arguments.out / name
        try:
            make(DOMAINS[name], folder, lambda *told, name=name: reported(name, *told))
            if not arguments.make_only:
                outcomes.append(trained(name, folder, seeds))
        except OpsdError as error:
            failed = 1
            print(f"{name}: {error}\n{error.hint}", file=sys.stderr, flush=True)
    if outcomes:
        text = json.dumps([asdict(each) for each in outcomes], indent=1)
        (arguments.out / "results.json").write_text(text + "\n", encoding="utf-8")
        (arguments.out / "results.md").write_text(table(outcomes) + "\n", encoding="utf-8")
        print(table(outcomes))
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
