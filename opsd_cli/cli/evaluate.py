"""`opsd eval`: k samples a problem, graded, kept as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.common import Request, choose_backend, loaded_policy, with_recommended
from opsd_cli.cli.console import Output
from opsd_cli.config.schema import EMBEDDED, Config
from opsd_cli.errors import Interrupted, UsageError
from opsd_cli.formatting import count, percent, points
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.sources import load_benchmark, told_apart
from opsd_cli.training.run_directory import CONFIG, refuse_used

if TYPE_CHECKING:
    from backends.interface import Policy
    from opsd_cli.evaluation.directory import EvaluationDirectory
    from opsd_cli.evaluation.evaluate import Evaluation
    from opsd_cli.tracking.listener import Listener

#: Settings differences named in full before the rest is only counted.
MOST_NAMED = 6


@dataclass(frozen=True)
class What:
    """The flags of `opsd eval` alone."""

    benchmarks: tuple[str, ...]
    limit: int | None
    out: Path | None
    resume: bool
    regrade: bool
    against: Path | None = None


def run(request: Request, what: What) -> None:
    """Evaluate every benchmark, or grade again what is there."""
    out = request.out
    from opsd_cli.evaluation.directory import EvaluationDirectory

    store = None
    if what.against is not None:
        EvaluationDirectory.open(what.against)
    if what.resume or what.regrade:
        if what.out is None:
            flag = "--regrade" if what.regrade else "--resume"
            raise UsageError(f"{flag} needs the evaluation's directory", "give --out DIR")
        store = EvaluationDirectory.open(what.out)
        store.require_extent()
    elif what.out is not None:
        refuse_used(what.out)
    base = store.directory / CONFIG if store is not None else None
    config = request.config(inherit=True, base=base if base and base.is_file() else None)
    if store is not None and request.flags["evaluation"]["samples"] is None:
        kept = {"samples": store.description["samples"]}
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=kept)})
    if config.adapter is not None:  # so that it can be resumed from anywhere
        config = config.model_copy(update={"adapter": str(Path(config.adapter).resolve())})
    if what.regrade and store is not None:
        source = store.description["sampling_from"]
    else:
        config, source = with_recommended(config, out)
    names, limit = _extent(what, store, config.evaluation.samples)
    sets = told_apart({name: load_benchmark(name, config, limit) for name in names})
    for problems in sets.values():
        if problems.report.remarkable:
            out.note(f"{problems.name}: {problems.report.sentence()}")
        if problems.caution:
            out.note(f"{problems.name}: {problems.caution}")
        for note in problems.notes:
            out.warn(note)
    if request.dry_run:
        _show_plan(config, sets, source, out)
        return
    if what.regrade:
        assert store is not None
        description = _described_again(config, sets, store, source, limit)
        store.require_same(description, regrading=True)
        _regrade(config, sets, store, description, what, out)
        return
    config, _ = choose_backend(config, out)
    description = describe(config, sets, source, limit)
    if store is not None:
        store.require_same(description)
    _evaluate(config, sets, store, description, what, out)


def _described_again(
    config: Config,
    sets: dict[str, ProblemSet],
    store: EvaluationDirectory,
    source: str,
    limit: int | None,
) -> dict[str, Any]:
    """The description that samples are graded again under.

    Nothing is drawn, so neither the backend that drew them, nor the model, nor the adapter need be
    here: what was read of them then still holds, and a config that names others is refused.
    """
    then = store.description
    if config.backend == "auto":
        config = config.model_copy(update={"backend": then["backend"]})
    return describe(config, sets, source, limit, then)


def _extent(
    what: What, store: EvaluationDirectory | None, samples: int
) -> tuple[list[str], int | None]:
    """The benchmarks and the limit: what is asked for, and at least what is there already."""
    asked = [name for given in what.benchmarks for name in given.split(",") if name]
    if len(set(asked)) < len(asked):
        raise UsageError("the same --benchmark is named twice", "name each once")
    if store is None:
        return asked or [EMBEDDED], what.limit
    then = store.description
    limit = what.limit or then["limit"]
    if limit is not None and then["limit"] is None:
        raise UsageError(
            f"{store.directory} holds whole benchmarks; --limit {limit} would be fewer",
            "leave out --limit, or give another --out",
        )
    for flag, now, before in (
        ("limit", limit, then["limit"]),
        ("samples", samples, then["samples"]),
    ):
        if before is not None and now is not None and now < before:
            raise UsageError(
                f"{store.directory} was made with --{flag} {before}, and --{flag} {now} is fewer",
                f"leave it out or raise it (results are never of fewer {flag} than are there), or "
                "give another --out",
            )
    return list(dict.fromkeys([*then["benchmarks"], *asked])), limit


def describe(
    config: Config,
    sets: dict[str, ProblemSet],
    source: str,
    limit: int | None,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What must agree for two sets of samples to be one, and, last, their extent.

    Args:
        weights: the model's `commit` and the `adapter_digest`; read off the files by default.
    """
    from opsd_cli.evaluation.evaluate import evaluation_sampling, evaluation_view

    if weights is None:
        from backends.shared.model_files import commit_of, digest_of_adapter

        weights = {
            "commit": commit_of(config),
            "adapter_digest": digest_of_adapter(config.adapter),
        }
    return {
        "model": config.model,
        "revision": config.revision,
        "commit": weights["commit"],
        "adapter": config.adapter,
        "adapter_digest": weights["adapter_digest"],
        "backend": config.backend,
        "dtype": config.train.dtype,
        "seed": config.seed,
        "student_prompt": evaluation_view(config).prompts.student.model_dump(mode="json"),
        "sampling": asdict(evaluation_sampling(config)),
        "sampling_from": source,
        "grader": config.grading.grader,
        "sets": {
            name: {"revision": problems.revision, "prompt": problems.prompt}
            for name, problems in sets.items()
        },
        "benchmarks": list(sets),
        "limit": limit,
        "samples": config.evaluation.samples,
    }


def _evaluate(
    config: Config,
    sets: dict[str, ProblemSet],
    store: EvaluationDirectory | None,
    description: dict[str, Any],
    what: What,
    out: Output,
) -> None:
    from opsd_cli.cli.live import watched
    from opsd_cli.evaluation.directory import EvaluationDirectory

    directory = what.out or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    with loaded_policy(config, out, trainable=False) as policy:
        store = store or EvaluationDirectory.create(directory, description, config)
        _warn_of_idle_flag(config, sets, policy, out)
        with store:
            store.keep_problems(_members(sets))
            store.describe(description)
            try:
                results = watched(out, partial(_measure, policy, config, sets, store))
            except KeyboardInterrupt as error:
                kept = sum(len(store.samples(name)) for name in sets)
                raise Interrupted(
                    f"stopped with {kept:,} samples graded, all kept",
                    f"go on with: opsd eval --resume --out {store.directory}",
                ) from error
            _finish(results, store, description, what, out)


def _measure(
    policy: Policy,
    config: Config,
    sets: dict[str, ProblemSet],
    store: EvaluationDirectory,
    listener: Listener,
) -> dict[str, Evaluation]:
    """Draw and grade what the directory lacks of every set."""
    from opsd_cli.evaluation.evaluate import evaluate, evaluation_sampling, evaluation_view
    from opsd_cli.grading import open_grader
    from opsd_cli.prompts.builder import PromptBuilder

    samples = config.evaluation.samples
    results = {}
    with open_grader(config.grading) as grader:
        for name, problems in sets.items():
            wanted = {problem.id for problem in problems.problems}
            done = [
                sample
                for sample in store.samples(name)
                if sample.problem_id in wanted and sample.sample_index < samples
            ]
            view = evaluation_view(config, problems.prompt)
            listener.phase(name, len(wanted) * samples, len(done))
            results[name] = evaluate(
                policy,
                name,
                problems.problems,
                PromptBuilder(view, policy.tokenizer, policy.context_limit).student,
                evaluation_sampling(config),
                samples=samples,
                seed=config.seed,
                grader=grader,
                listener=listener,
                on_sample=partial(store.append, name),
                done=done,
            ).with_votes(grader)
    return results


def _warn_of_idle_flag(
    config: Config, sets: dict[str, ProblemSet], policy: Policy, out: Output
) -> None:
    """Say so where `evaluation.thinking` makes no difference to the prompt."""
    from opsd_cli.evaluation.evaluate import evaluation_view
    from opsd_cli.prompts.builder import PromptBuilder

    if config.evaluation.thinking is None:
        return
    first = next(iter(sets.values())).problems[0]
    rendered = {
        PromptBuilder(evaluation_view(_thinking(config, flag)), policy.tokenizer)
        .student(first)
        .text
        for flag in (True, False)
    }
    if len(rendered) == 1:
        out.warn("evaluation.thinking changes nothing: the chat template has no such flag")


def _thinking(config: Config, flag: bool) -> Config:
    changed = config.evaluation.model_copy(update={"thinking": flag})
    return config.model_copy(update={"evaluation": changed})


def _regrade(
    config: Config,
    sets: dict[str, ProblemSet],
    store: EvaluationDirectory,
    description: dict[str, Any],
    what: What,
    out: Output,
) -> None:
    from opsd_cli.evaluation.evaluate import assemble
    from opsd_cli.grading import open_grader

    with store, open_grader(config.grading) as grader:
        store.keep_problems(_members(sets), regrading=True)
        changed, kept = store.regrade(_members(sets), grader)
        store.describe(store.description | {"grader": description["grader"]})
        out.show(f"graded {kept:,} samples again: {changed} changed")
        results = {
            name: assemble(
                name,
                [problem.id for problem in problems.problems],
                store.samples(name),
                config.evaluation.samples,
            ).with_votes(grader)
            for name, problems in sets.items()
        }
        _finish(results, store, description, what, out, {"regraded": kept, "changed": changed})


def _members(sets: dict[str, ProblemSet]) -> dict[str, Sequence[Any]]:
    return {name: problems.problems for name, problems in sets.items()}


def _finish(
    results: dict[str, Evaluation],
    store: EvaluationDirectory,
    description: dict[str, Any],
    what: What,
    out: Output,
    more: dict[str, Any] | None = None,
) -> None:
    """Write results and pages, and show them."""
    from opsd_cli.evaluation.pairing import against
    from opsd_cli.reports.evaluation_report import write_evaluation_report

    summary: dict[str, Any] = {
        "evaluation_dir": str(store.directory),
        **{
            key: description[key]
            for key in ("model", "commit", "adapter", "backend", "sampling", "sampling_from")
        },
        "benchmarks": {
            name: result.as_dict() | {"revision": description["sets"][name]["revision"]}
            for name, result in results.items()
        },
        **(more or {}),
    }
    if what.against is not None:
        summary["against"] = str(what.against)
        for name, entry in against(results, store, what.against).items():
            summary["benchmarks"][name]["against"] = entry
    store.write_results(summary)
    report = write_evaluation_report(store, results, summary)
    _show(results, summary, out)
    out.show(f"samples: {store.directory / 'samples.jsonl'}\nreport: {report}")
    out.object(summary)


def _show(results: dict[str, Evaluation], summary: dict[str, Any], out: Output) -> None:
    from rich.table import Table

    from opsd_cli.evaluation.pairing import difference_of

    # No wider than 80 columns: headings break where they are told to, cells never.
    table = Table(box=None, padding=(0, 1, 0, 0))
    k = next(iter(results.values())).samples_per_problem
    headings = ["benchmark", "problems", f"avg@{k}\n(95% interval)"]
    if k > 1:
        headings += [f"pass@{k}", f"maj@{k}"]
    for heading in (*headings, "cut off", "no\nanswer", "mean\ntokens"):
        left = heading == "benchmark"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for name, result in results.items():
        row = [name, str(len(result.problem_ids)), percent(result.accuracy)]
        if k > 1:
            row += [f"{100 * e.value:.1f}%" for e in (result.pass_at[k], result.majority)]
        row += [f"{result.truncated:.1%}", f"{result.no_answer:.1%}", count(result.mean_tokens)]
        table.add_row(*row)
    out.show(table)
    for name, entry in summary["benchmarks"].items():
        if "against" not in entry:
            continue
        paired = entry["against"]
        out.show(
            f"{name} against {summary['against']}: {points(difference_of(paired))}; of "
            f"{entry['problems']} problems better on {paired['problems_ahead']} and worse on "
            f"{paired['problems_behind']}"
        )
        differing = paired["settings_that_differ"]
        if differing:
            named = ", ".join(differing[:MOST_NAMED])
            more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
            out.note(f"the two differ in {named}{more}")


def _show_plan(config: Config, sets: dict[str, ProblemSet], source: str, out: Output) -> None:
    from opsd_cli.evaluation.evaluate import evaluation_sampling

    samples, sampling = config.evaluation.samples, evaluation_sampling(config)
    plan = {
        name: {
            "problems": len(problems.problems),
            "completions": len(problems.problems) * samples,
            "generated_tokens_at_most": len(problems.problems) * samples * sampling.max_new_tokens,
            "revision": problems.revision,
        }
        for name, problems in sets.items()
    }
    for name, entry in plan.items():
        out.show(
            f"{name}: {entry['problems']:,} problems × {samples} samples, at most "
            f"{entry['generated_tokens_at_most']:,} generated tokens"
        )
    thinking = "thinking" if config.thinks else "not thinking"
    out.show(
        f"model {config.model}, {thinking}; temperature {sampling.temperature:g}, "
        f"top-p {sampling.top_p:g}, top-k {sampling.top_k} ({source}); nothing was written"
    )
    out.object({"config": json.loads(config.model_dump_json()), "plan": plan})
