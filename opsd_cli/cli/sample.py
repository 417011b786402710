"""`opsd sample`: its flags, prompts exactly as they are, and tokens coloured by divergence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.console import Output
from opsd_cli.cli.listeners import watched
from opsd_cli.cli.request import Request
from opsd_cli.cli.streaming import StreamListener
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.formatting import numbered
from opsd_cli.grading import check_grader, open_grader
from opsd_cli.inspection import (
    Completion,
    completions_of,
    divergence_entry,
    draw,
    model_or_live,
    problems_to_inspect,
    prompts_of_roles,
    sampled_as,
    teacher_prompts,
    token_divergences,
)
from opsd_cli.loading import choose_backend, loaded_policy
from opsd_cli.printable import visible
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import OF_ONE_ROLLOUT, SOLUTION, reference_of, shown_reference
from opsd_cli.prompts.teacher import boundary_mismatch
from opsd_cli.rollouts.teacher_analysis import TeacherPrompts
from opsd_cli.tracking.listener import Listener

if TYPE_CHECKING:
    from rich.text import Text

    from backends.interface import Policy, Rollout, TokenReport

#: Problems shown when no question and no limit is given.
A_FEW = 3
#: Upper edges of the colour scale, in nats per token, and the style up to each.
SCALE: tuple[tuple[float, str], ...] = (
    (0.01, "default"),
    (0.05, "black on pale_turquoise1"),
    (0.2, "black on light_goldenrod1"),
    (0.5, "black on orange1"),
    (float("inf"), "bold white on red3"),
)


@dataclass(frozen=True)
class Options:
    """The flags of `opsd sample` alone."""

    question: str | None
    file: Path | None
    split: str
    limit: int | None
    n: int
    solution: str | None
    privileged: bool
    divergence: bool
    show_prompts: bool
    sampling: str = "evaluation"
    temperature: float | None = None


def sampling_flags(
    how: str, max_tokens: int | None, temperature: float | None
) -> dict[str, int | float | None]:
    """The config keys that `--max-tokens` and `--temperature` set: those that `how` samples by."""
    section = "sampling" if how == "training" else "evaluation"
    return {f"{section}.max_new_tokens": max_tokens, f"{section}.temperature": temperature}


def _with_flags(drawn_as: Config, options: Options) -> Config:
    """The config with the typed temperature, which `evaluation.sampling: recommended` replaces."""
    if options.temperature is None:
        return drawn_as
    sampling = drawn_as.sampling.model_copy(update={"temperature": options.temperature})
    return drawn_as.model_copy(update={"sampling": sampling})


def run(request: Request, options: Options) -> None:
    """Sample completions and show them."""
    out = request.out
    config = request.config(inherit=True)
    check_grader(config.grading)
    drawn_as = _with_flags(sampled_as(config, options.sampling, out), options)
    problems = _problems(config, options, out)
    if options.privileged or options.divergence:
        _require_references(problems, config, options)
    config, _ = choose_backend(config, out)
    with loaded_policy(config, out, trainable=False, devices=request.devices) as policy:
        _sample(policy, problems, config, drawn_as, options, request.dry_run, out)


def _sample(
    policy: Policy,
    problems: tuple[Problem, ...],
    config: Config,
    drawn_as: Config,
    options: Options,
    dry_run: bool,
    out: Output,
) -> None:
    """Show prompts and completions; `drawn_as` has the `sampling` of the completions."""
    prompts = PromptBuilder(config, policy.tokenizer, policy.context_limit)
    teacher = TeacherPrompts({})
    if options.privileged or options.divergence or options.show_prompts or dry_run:
        teacher = watched(
            out, lambda listener: teacher_prompts(policy, problems, prompts, config, listener)
        )
    shown = []
    if options.show_prompts or dry_run:
        for problem in problems:
            shown.append(_show_prompts(problem, prompts, teacher, config, out))
    if dry_run:
        out.object({"prompts": shown})
        return
    sampling = drawn_as.sampling
    out.note(
        f"sampling as {options.sampling} does: temperature {sampling.temperature:g}, "
        f"top-p {sampling.top_p:g}, top-k {sampling.top_k or 'all'}, at most "
        f"{sampling.max_new_tokens:,} tokens"
    )
    prompt_of = teacher.of if options.privileged else prompts.student
    other = options.privileged and config.teacher.model is not None
    teacher_weights = model_or_live(config) if other else None

    def drawn(listener: Listener) -> list[Rollout]:
        shown_while = listener.unfinished if isinstance(listener, StreamListener) else None
        return draw(
            policy, problems, prompt_of, drawn_as, options.n, listener, shown_while, teacher_weights
        )

    rollouts = watched(
        out,
        drawn,
        lambda: StreamListener(out, policy.tokenizer, policy.stop_ids, sampling.stop),
    )
    entries = []
    with open_grader(config.grading, out.warn) as grader:
        for problem in problems:
            mine = [r for r in rollouts if r.request.problem_id == problem.id]
            reports: tuple[TokenReport, ...] = ()
            if options.divergence:
                reports = token_divergences(problem, mine, policy, prompts, teacher, config)
            completions = completions_of(problem, mine, policy, grader, reports, sampling.stop)
            entries += _show(problem, completions, prompts, config, options, out)
    result: dict[str, Any] = {
        "model": config.model,
        "sampling": sampling.model_dump(),
        "completions": entries,
    }
    if shown:
        result["prompts"] = shown
    out.object(result)


def _problems(config: Config, options: Options, out: Output) -> tuple[Problem, ...]:
    if options.question is not None and options.file is not None:
        raise UsageError("a question and --file are both given", "give one of them")
    if options.question is not None:
        if not options.question.strip():
            raise UsageError("the question is empty", "type a question")
        return (Problem("question", options.question, options.solution, None, "typed"),)
    if options.solution is not None:
        raise UsageError("--solution belongs to a typed question", "type the question too")
    loaded = problems_to_inspect(
        config,
        options.split,
        options.file,
        need_reference=options.privileged or options.divergence,
        limit=options.limit,
    )
    if options.file is not None and loaded.report.remarkable:
        out.note(f"{loaded.name}: {loaded.report.sentence()}")
    for warning in loaded.notes:
        out.warn(warning)
    return loaded.problems[: options.limit or A_FEW]


def _require_references(problems: tuple[Problem, ...], config: Config, options: Options) -> None:
    if all(reference_of(problem, config.teacher) for problem in problems):
        return
    flag = "--privileged" if options.privileged else "--divergence"
    named = config.teacher.reference
    if named == SOLUTION:
        raise UsageError(
            f"{flag} needs a reference solution for the teacher to see",
            "give one with --solution, or take problems from a set that has them",
        )
    raise UsageError(
        f"{flag} needs a reference for the teacher to see, and teacher.reference is "
        f"{shown_reference(named)}",
        "it exists only while training; rollouts.jsonl has the prompts. For another "
        "reference: --set teacher.reference=solution or answer"
        if named in OF_ONE_ROLLOUT
        else "take problems that have it, or another one: --set teacher.reference=solution",
    )


def _show_prompts(
    problem: Problem,
    prompts: PromptBuilder,
    teacher: TeacherPrompts,
    config: Config,
    out: Output,
) -> dict[str, Any]:
    entry: dict[str, Any] = {"problem_id": problem.id}
    roles = prompts_of_roles(problem, prompts, teacher)
    for role, prompt in roles.items():
        out.show(_heading(f"{role}'s prompt, {len(prompt.ids)} tokens"))
        out.exact(prompt.text)
        entry[role] = {"text": prompt.text, "tokens": len(prompt.ids), "opening": prompt.opening}
    if "teacher" not in roles:
        why = "the question has no reference solution (--solution)"
        if config.teacher.reference != SOLUTION:
            named = shown_reference(config.teacher.reference)
            why = f"the question has no reference by itself (teacher.reference is {named})"
        out.note(f"no teacher's prompt: {why}")
    else:
        entry["boundary_warning"] = boundary_mismatch(roles["student"], roles["teacher"])
        if entry["boundary_warning"]:
            out.warn(f"{entry['boundary_warning']} (--set prompts.boundary=match aligns them)")
    return entry


def _heading(text: str) -> Text:
    from rich.text import Text

    return Text(f"── {visible(text)} ──", style="bold cyan")


def _show(
    problem: Problem,
    completions: list[Completion],
    prompts: PromptBuilder,
    config: Config,
    options: Options,
    out: Output,
) -> list[dict[str, Any]]:
    out.show(_heading(f"problem {problem.id}"))
    out.show(problem.question)
    entries = []
    who = "teacher" if options.privileged else "student"
    for number, completion in enumerate(completions, 1):
        entry = completion.as_dict()
        verdict = f", {entry['status']}" if entry["status"] else ""
        verdict += f", score {entry['score']:.3g}" if "score" in entry else ""
        cut = ", cut at the limit" if entry["finish_reason"] == "length" else ""
        out.show(
            _heading(
                f"{who}'s completion {number}, {numbered(entry['tokens'], 'token')}{cut}{verdict}"
            )
        )
        if completion.report is not None:
            entry["divergence"] = divergence_entry(completion, prompts, config)
            _show_divergence(entry["divergence"], out)
        else:
            out.show(completion.text)
        if "feedback" in entry:
            out.show(f"the grader says: {visible(entry['feedback'])}")
        entries.append(entry)
    return entries


def style_of(value: float) -> str:
    """The style of a token whose divergence is `value` nats."""
    return next(style for edge, style in SCALE if value <= edge)


def _show_divergence(entry: dict[str, Any], out: Output) -> None:
    """The completion with its tokens coloured, the scale, and the mean."""
    from rich.text import Text

    pieces = [token["text"] for token in entry["tokens"]]
    values = [token["value"] for token in entry["tokens"]]
    colours = out.shown_on.color_system is not None
    body, legend = Text(), Text("divergence, nats: ")
    for piece, value in zip(pieces, values, strict=True):
        style = style_of(value)
        if colours or style == "default":
            body.append(visible(piece), style)
        else:
            body.append(f"⟦{visible(piece)}|{value:.2f}⟧")
    if colours:
        low = 0.0
        for edge, style in SCALE:
            legend.append(f" >{low:g} " if edge == float("inf") else f" ≤{edge:g} ", style)
            legend.append(" ")
            low = edge
    else:
        legend.append(f"tokens above {SCALE[0][0]:g} stand as ⟦token|nats⟧")
    out.show(body)
    out.show(legend)
    if values:
        most = max(values)
        out.show(
            f"{entry['kind']}: mean {entry['mean']:.4f} nats a token, most {most:.3f} at "
            f"{pieces[values.index(most)]!r}"
        )
    else:
        out.show("the completion is empty: no token has a divergence")
