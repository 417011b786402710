"""`opsd eval`: k samples a problem, graded, kept as they come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.common import Request, choose_backend, load_policy
from opsd_cli.cli.console import Output
from opsd_cli.config import EMBEDDED, Config
from opsd_cli.errors import UsageError
from opsd_cli.evaluation_store import EvaluationDirectory
from opsd_cli.figures import count, percent
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.sources import load_benchmark
from opsd_cli.runs import refuse_used

if TYPE_CHECKING:
    from backends.interface import Sampling
    from opsd_cli.evaluation import Evaluation


@dataclass(frozen=True)
class What:
    """The flags of `opsd eval` alone."""

    benchmarks: tuple[str, ...]
    limit: int | None
    out: Path | None
    resume: bool
    regrade: bool


def run(request: Request, what: What) -> None:
    """Evaluate every benchmark, or regrade what is there."""
    out = request.out
    if (what.resume or what.regrade) and what.out is None:
        flag = "--regrade" if what.regrade else "--resume"
        raise UsageError(f"{flag} needs the evaluation's directory", "give --out DIR")
    config = request.config(inherit=True)
    names = what.benchmarks or (EMBEDDED,)
    if len(set(names)) < len(names):
        raise UsageError("the same --benchmark is named twice", "name each once")
    sets = {name: load_benchmark(name, config, what.limit) for name in names}
    for problems in sets.values():
        if problems.report.skipped() or problems.report.derived_answers:
            out.note(f"{problems.name}: {problems.report.sentence()}")
    from opsd_cli.training import evaluation_sampling

    sampling = evaluation_sampling(config)
    if request.dry_run:
        _show_plan(config, sets, sampling, out)
    elif what.regrade:
        assert what.out is not None
        _regrade(config, sets, EvaluationDirectory.resume(what.out), out)
    else:
        _evaluate(config, sets, sampling, what, out)


def describe(config: Config, sets: dict[str, ProblemSet], sampling: Sampling) -> dict[str, Any]:
    """What must agree for two sets of samples to be one: all but their number."""
    return {
        "model": config.model,
        "revision": config.revision,
        "adapter": config.adapter and str(Path(config.adapter).resolve()),
        "seed": config.seed,
        "student_prompt": config.prompts.student.model_dump(mode="json"),
        "sampling": asdict(sampling),
        "benchmarks": list(sets),
    }


def _evaluate(
    config: Config, sets: dict[str, ProblemSet], sampling: Sampling, what: What, out: Output
) -> None:
    directory = what.out or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    description = describe(config, sets, sampling)
    store = EvaluationDirectory.resume(directory, description) if what.resume else None
    if store is None:
        refuse_used(directory)
    config, _ = choose_backend(config, out)
    policy = load_policy(config, out, trainable=False)
    from opsd_cli.cli.live import watched
    from opsd_cli.context import Contexts
    from opsd_cli.evaluation import evaluate
    from opsd_cli.events import Listener
    from opsd_cli.grading import Grader

    store = store or EvaluationDirectory.create(directory, description)
    opened = store
    contexts = Contexts(config, policy.tokenizer, policy.context_limit)

    def work(listener: Listener) -> dict[str, Evaluation]:
        results = {}
        with Grader(config.grading.deadline_seconds) as grader:
            for name, problems in sets.items():
                wanted = {problem.id for problem in problems.problems}
                done = [
                    sample
                    for sample in opened.samples(name)
                    if sample.problem_id in wanted
                    and sample.sample_index < config.evaluation.samples
                ]
                total = len(wanted) * config.evaluation.samples
                listener.phase(name, total)
                listener.advance(len(done))
                results[name] = evaluate(
                    policy,
                    name,
                    problems.problems,
                    contexts,
                    sampling,
                    samples=config.evaluation.samples,
                    seed=config.seed,
                    grader=grader,
                    listener=listener,
                    on_sample=partial(opened.append, name),
                    done=done,
                )
        return results

    results = watched(out, work)
    summary = {
        "evaluation_dir": str(directory),
        "model": config.model,
        "adapter": config.adapter,
        "backend": config.backend,
        "benchmarks": {name: result.as_dict() for name, result in results.items()},
    }
    store.write_results(summary)
    _show(results, out)
    out.show(f"samples: {directory / 'samples.jsonl'}")
    out.object(summary)


def _regrade(
    config: Config, sets: dict[str, ProblemSet], store: EvaluationDirectory, out: Output
) -> None:
    from opsd_cli.grading import Grader

    with Grader(config.grading.deadline_seconds) as grader:
        members = {name: problems.problems for name, problems in sets.items()}
        changed, kept = store.regrade(members, grader)
    out.show(f"graded {kept:,} samples again: {changed} changed")
    out.object({"evaluation_dir": str(store.directory), "regraded": kept, "changed": changed})


def _show(results: dict[str, Evaluation], out: Output) -> None:
    from rich.table import Table

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


def _show_plan(
    config: Config, sets: dict[str, ProblemSet], sampling: Sampling, out: Output
) -> None:
    samples = config.evaluation.samples
    plan = {
        name: {
            "problems": len(problems.problems),
            "completions": len(problems.problems) * samples,
            "generated_tokens_at_most": len(problems.problems) * samples * sampling.max_new_tokens,
        }
        for name, problems in sets.items()
    }
    for name, entry in plan.items():
        out.show(
            f"{name}: {entry['problems']:,} problems × {samples} samples, at most "
            f"{entry['generated_tokens_at_most']:,} generated tokens"
        )
    out.show(f"model {config.model}, temperature {sampling.temperature:g}; nothing was written")
    out.object({"config": json.loads(config.model_dump_json()), "plan": plan})
