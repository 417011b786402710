"""`opsd compare`: its flags, and the plan that `--dry-run` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opsd_cli.cli.compare_halving import cost_sentence, halving_of_flags, rounds_table
from opsd_cli.cli.compare_output import show, watched_jobs
from opsd_cli.cli.compare_variants import Cost, cost_of_arms, varied
from opsd_cli.cli.console import Output
from opsd_cli.cli.plan import plan_table, prompts_of
from opsd_cli.cli.request import Request
from opsd_cli.comparison import session
from opsd_cli.comparison.common_rows import common_rows, sentence
from opsd_cli.comparison.halving import Halving
from opsd_cli.comparison.planned_tokens import halving_cost
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.token_plans import comparison_plan
from opsd_cli.comparison.variants import Variation, require_measured_alike
from opsd_cli.config.explain import suggest
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.formatting import numbered
from opsd_cli.methods import METHODS
from opsd_cli.planning.readiness import (
    require_model_at_hand,
    require_problems_at_hand,
    require_ready,
)
from opsd_cli.planning.token_plan import TokenPlan
from opsd_cli.reports.comparison_pages import write_comparison_pages
from opsd_cli.tracking import trackers
from opsd_cli.tracking.listener import Listener

#: The methods that are compared where none is named.
COMPARED = "opsd,grpo"


@dataclass(frozen=True)
class Options:
    """The flags of `opsd compare` alone."""

    finished: tuple[Path, ...]
    methods: str | None
    seeds: int
    tune: bool
    target: float | None
    require_ratio: float | None
    jobs: int
    out: Path | None
    resume: bool
    vary: tuple[str, ...] = ()
    grid: bool = False
    halving: bool = False
    halving_rounds: int | None = None
    halving_fraction: float | None = None

    @property
    def varies(self) -> bool:
        """Whether a flag gives arms of a method, or ends some early."""
        rounds = (self.halving_rounds, self.halving_fraction) != (None, None)
        return bool(self.vary) or self.grid or self.halving or rounds


def run(request: Request, options: Options) -> None:
    """Train what is missing, then compare."""
    out = request.out
    if options.varies and (options.finished or options.resume):
        raise UsageError(
            "--vary, --grid and --halving give the arms of a new comparison",
            "leave them out here, or start a new comparison",
        )
    if options.grid and not options.vary:
        raise UsageError("--grid combines the values of --vary", "give --vary KEY=A,B")
    if options.finished:
        if request.dry_run:
            raise UsageError(
                "--dry-run plans training, and finished runs are compared as they are",
                "leave out --dry-run, or the runs",
            )
        if options.resume or request.changes_anything:
            raise UsageError(
                "finished runs are compared as they are, so --resume and config flags do nothing",
                "leave them out, or leave out the runs to train anew",
            )
        _finish(
            session.compare_finished(options.finished, options.out, out, options.target),
            options,
            out,
        )
    elif options.resume:
        if options.out is None:
            raise UsageError("--resume needs the comparison's directory", "give --out DIR")
        if request.changes_anything:
            raise UsageError(
                "--resume goes on with the comparison's own plan, which flags cannot change",
                "leave out the other flags, or start a new comparison in another --out",
            )
        if request.dry_run:
            _show_rest(options.out, out)
            return
        _train(options.out, options, out)
    else:
        _begin(request, options)


def _begin(request: Request, options: Options) -> None:
    """A new comparison, or its plan."""
    named, variation = _arms(request, options)
    configs = session.measured_alike(named, options.seeds)
    if variation is not None:
        require_measured_alike(configs, variation)
    halving = halving_of_flags(
        configs, next(iter(configs)) if variation is None else variation.base, options.halving,
        options.halving_rounds, options.halving_fraction, options.tune,
    )  # fmt: skip
    if options.out is not None:
        session.refuse_used(options.out)
    if request.dry_run:
        _show_plan(request.out, configs, options, variation, halving)
        return
    plans = comparison_plan(configs, Listener()).runs
    if halving is not None:
        cost = halving_cost(halving, configs, plans, options.seeds)
        request.out.note(cost_sentence(cost))
    elif variation is not None:
        request.out.note(cost_of_arms(plans, variation, options.seeds).sentence)
    directory = session.begin(
        configs, options.out, options.seeds, options.tune, options.target, request.out, variation,
        halving, plans,
    )  # fmt: skip
    _train(directory, options, request.out)


def _arms(request: Request, options: Options) -> tuple[dict[str, Config], Variation | None]:
    """The configs by label; those of `--vary` are of the first method, and follow it."""
    if not options.vary:
        names = named_methods(COMPARED if options.methods is None else options.methods)
        return {name: _of_method(request, name) for name in names}, None
    names = (
        (request.config().method,)
        if options.methods is None
        else named_methods(options.methods, least=1)
    )
    arms, variation = varied(request, names[0], options.vary, options.grid, options.tune)
    return arms | {name: _of_method(request, name) for name in names[1:]}, variation


def _train(directory: Path, options: Options, out: Output) -> None:
    """Train what the plan still lacks, and compare."""
    with session.held(directory):
        result = session.train_and_compare(
            directory,
            lambda where, jobs: watched_jobs(where, jobs, options.jobs, out),
            out,
            options.target,
        )
        _finish(result, options, out)


def _finish(result: Comparison, options: Options, out: Output) -> None:
    """Write the pages, show the result, and apply the gate."""
    write_comparison_pages(result, out)
    show(result, out)
    if options.require_ratio is not None:
        result.require_ratio(options.require_ratio)


def _of_method(request: Request, name: str) -> Config:
    return Request(
        request.config_names, request.assignments, {**request.flags, "method": name}
    ).config()


def named_methods(text: str, least: int = 2) -> tuple[str, ...]:
    """The methods of a comma-separated list; raises `UsageError` for a wrong one or too few."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in METHODS:
            raise UsageError(f"there is no method {name!r}", suggest(name, list(METHODS), "--help"))
    if len(set(names)) < max(least, len(names)):
        hint = f"choose from {', '.join(METHODS)}"
        number = "two different methods" if least > 1 else "one method, or several different ones"
        raise UsageError(f"--methods {text!r} does not name {number}", hint)
    return names


def _show_rest(directory: Path, out: Output) -> None:
    """What resuming a comparison would train: the runs of its plan, and where each is."""
    rest = [(entry, entry.job.until) for entry in session.progress(directory)]
    for entry, steps in rest:
        out.show(f"{entry.job.name}: {entry.state}, step {entry.step} of {steps}")
    left = sum(entry.state != "done" for entry, _ in rest)
    out.show(f"{left} of {len(rest)} runs {'is' if left == 1 else 'are'} left; nothing was written")
    out.object(
        {
            "runs": {
                entry.job.name: {"state": entry.state, "step": entry.step, "steps": steps}
                for entry, steps in rest
            },
            "runs_left": left,
        }
    )


def _show_plan(
    out: Output,
    named: dict[str, Config],
    options: Options,
    variation: Variation | None,
    halving: Halving | None,
) -> None:
    """The tokens of the compared methods or arms side by side."""
    for config in named.values():
        trackers.require(config.log)
        require_ready(config, out, learns=True)
    planned = comparison_plan(named, out)
    plans = planned.runs
    what = "method" if variation is None else "arm"
    out.show(f"tokens at most, of one run of each {what}, all evaluated alike:")
    out.show(plan_table(plans, what))
    _show_once({name: prompts_of(plan) for name, plan in plans.items()}, variation, out)
    seeds = {
        name: f"{numbered(options.seeds, 'seed')} × {numbered(config.train.steps, 'step')}, "
        f"learning rate {config.optimizer.learning_rate:g}"
        for name, config in named.items()
    }
    _show_once(seeds, variation, out)
    if options.tune:
        out.show(
            f"before that, {len(planned.tuning)} runs to choose learning rates, at most "
            f"{planned.tuning_generated:,} generated tokens"
        )
    cost = None if variation is None else cost_of_arms(plans, variation, options.seeds)
    if cost is not None:
        out.show(cost.sentence)
    rounds = _show_rounds(halving, named, plans, options.seeds, out)
    rows = common_rows(named, planned.splits)
    if rows is not None:
        out.show(sentence(rows.as_dict()))
    out.show("nothing was written")
    tuned = {"runs": len(planned.tuning), "generated_tokens_at_most": planned.tuning_generated}
    out.object(
        {
            "plan": {name: plan.as_dict() for name, plan in plans.items()},
            "methods": list(named),
            "seeds": options.seeds,
            "tuning": tuned if options.tune else None,
            **_variation_object(variation, cost),
            **({} if rows is None else {"common_rows": rows.as_dict()}),
            **rounds,
        }
    )
    for name, config in named.items():
        require_problems_at_hand(config, planned.splits[name])
        require_model_at_hand(config)


def _show_once(lines: Mapping[str, str], variation: Variation | None, out: Output) -> None:
    """A line for each label; an arm that has the base's is not shown again."""
    for label, text in lines.items():
        if variation is None or label not in variation.changes or text != lines[variation.base]:
            out.show(f"{label}: {text}")


def _show_rounds(
    halving: Halving | None,
    named: Mapping[str, Config],
    plans: Mapping[str, TokenPlan],
    seeds: int,
    out: Output,
) -> dict[str, Any]:
    """Show what the rounds take; returns the key `halving` of the plan's JSON object, if any."""
    if halving is None:
        return {}
    cost = halving_cost(halving, named, plans, seeds)
    out.show("\nthe rounds of --halving, tokens at most:")
    out.show(rounds_table(cost))
    out.show(cost_sentence(cost))
    return {"halving": {**halving.as_dict(), "cost_at_most": cost.as_dict()}}


def _variation_object(variation: Variation | None, cost: Cost | None) -> dict[str, Any]:
    """The key `variation` of the plan's JSON object; none without `--vary`."""
    if variation is None or cost is None:
        return {}
    return {"variation": {**variation.as_dict(), "cost_at_most": asdict(cost)}}
