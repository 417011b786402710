"""`opsd sample`: completions for a question, and where teacher and student disagree in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.common import Request, choose_backend, loaded_policy
from opsd_cli.cli.console import Output
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.printable import visible
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import completion_text
from opsd_cli.prompts.teacher import boundary_mismatch
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst, TeacherPrompts
from opsd_cli.seeds import derive_seed

if TYPE_CHECKING:
    from rich.text import Text

    from backends.interface import Policy, Rollout, TokenReport
    from opsd_cli.grading import Grader

SPLITS = ("train", "validation", "test")
#: Problems shown when no question and no limit is given.
A_FEW = 3
#: Upper edges of the colour scale, in nats a token, and the style up to each.
SCALE: tuple[tuple[float, str], ...] = (
    (0.01, "default"),
    (0.05, "black on pale_turquoise1"),
    (0.2, "black on light_goldenrod1"),
    (0.5, "black on orange1"),
    (float("inf"), "bold white on red3"),
)


@dataclass(frozen=True)
class What:
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


def run(request: Request, what: What) -> None:
    """Draw the completions and show them."""
    out = request.out
    config = request.config(inherit=True)
    problems = _problems(config, what, out)
    if what.privileged or what.divergence:
        _require_solutions(problems, what)
    config, _ = choose_backend(config, out)
    with loaded_policy(config, out, trainable=False) as policy:
        _sample(policy, problems, config, what, request.dry_run, out)


def _sample(
    policy: Policy,
    problems: tuple[Problem, ...],
    config: Config,
    what: What,
    dry_run: bool,
    out: Output,
) -> None:
    from opsd_cli.grading import open_grader

    contexts = PromptBuilder(config, policy.tokenizer, policy.context_limit)
    teacher = TeacherPrompts({})
    if what.privileged or what.divergence or what.show_prompts or dry_run:
        analyst = TeacherAnalyst(config, policy, contexts)
        teacher = analyst.prompts([p for p in problems if p.solution is not None])
    shown = []
    if what.show_prompts or dry_run:
        for problem in problems:
            shown.append(_show_prompts(problem, contexts, teacher, out))
    if dry_run:
        out.object({"prompts": shown})
        return
    rollouts = _draw(policy, problems, contexts, teacher, config, what, out)
    completions = []
    with open_grader(config.grading) as grader:
        for problem in problems:
            mine = [r for r in rollouts if r.request.problem_id == problem.id]
            completions += _show(
                problem, mine, grader, policy, contexts, teacher, config, what, out
            )
    result: dict[str, Any] = {"model": config.model, "completions": completions}
    if shown:
        result["prompts"] = shown
    out.object(result)


def _problems(config: Config, what: What, out: Output) -> tuple[Problem, ...]:
    if what.question is not None and what.file is not None:
        raise UsageError("a question and --file are both given", "give one of them")
    if what.question is not None:
        if not what.question.strip():
            raise UsageError("the question is empty", "type a question")
        return (Problem("question", what.question, what.solution, None, "typed"),)
    if what.solution is not None:
        raise UsageError("--solution belongs to a typed question", "type the question too")
    if what.split not in SPLITS:
        raise UsageError(f"there is no split {what.split!r}", f"choose from {', '.join(SPLITS)}")
    loaded = _loaded(config, what)
    if what.file is not None and loaded.report.remarkable:
        out.note(f"{loaded.name}: {loaded.report.sentence()}")
    for warning in loaded.notes:
        out.warn(warning)
    return loaded.problems[: what.limit or A_FEW]


def _loaded(config: Config, what: What) -> ProblemSet:
    from opsd_cli.problems.files import load_file
    from opsd_cli.problems.sources import load_splits

    if what.file is None:
        splits = load_splits(config)
        return {"train": splits.train, "validation": splits.validation, "test": splits.test}[
            what.split
        ]
    columns = {k: v for k, v in config.data.columns.model_dump().items() if v}
    need = what.privileged or what.divergence
    return load_file(what.file, columns, need_solution=need, need_answer=False, limit=what.limit)


def _require_solutions(problems: tuple[Problem, ...], what: What) -> None:
    if any(problem.solution is None for problem in problems):
        flag = "--privileged" if what.privileged else "--divergence"
        raise UsageError(
            f"{flag} needs a reference solution for the teacher to see",
            "give one with --solution, or take problems from a set that has them",
        )


def _show_prompts(
    problem: Problem, contexts: PromptBuilder, teacher: TeacherPrompts, out: Output
) -> dict[str, Any]:
    entry: dict[str, Any] = {"problem_id": problem.id}
    roles = {"student": contexts.student(problem)}
    if problem.solution is not None:
        roles["teacher"] = teacher.of(problem)
    for role, prompt in roles.items():
        out.show(_heading(f"{role}'s prompt, {len(prompt.ids)} tokens"))
        out.exact(prompt.text)
        entry[role] = {"text": prompt.text, "tokens": len(prompt.ids), "opening": prompt.opening}
    if problem.solution is None:
        out.note("no teacher's prompt: the question has no reference solution (--solution)")
    else:
        entry["boundary_warning"] = boundary_mismatch(roles["student"], roles["teacher"])
        if entry["boundary_warning"]:
            out.warn(f"{entry['boundary_warning']} (--set prompts.boundary=match aligns them)")
    return entry


def _heading(text: str) -> Text:
    from rich.text import Text

    return Text(f"── {visible(text)} ──", style="bold cyan")


def _draw(
    policy: Policy,
    problems: tuple[Problem, ...],
    contexts: PromptBuilder,
    teacher: TeacherPrompts,
    config: Config,
    what: What,
    out: Output,
) -> list[Rollout]:
    from backends.interface import RolloutRequest
    from opsd_cli.rollouts.types import training_sampling

    prompt = teacher.of if what.privileged else contexts.student
    requests = [
        RolloutRequest(
            problem.id, index, prompt(problem).ids,
            derive_seed(config.seed, "sample", *problem.key, index),
        )
        for problem in problems
        for index in range(what.n)
    ]  # fmt: skip
    with out.working("sampling"):
        drawn = list(policy.generate(requests, training_sampling(config)))
    return sorted(drawn, key=lambda rollout: rollout.request.sample_index)


def _show(
    problem: Problem,
    rollouts: list[Rollout],
    grader: Grader,
    policy: Policy,
    contexts: PromptBuilder,
    teacher: TeacherPrompts,
    config: Config,
    what: What,
    out: Output,
) -> list[dict[str, Any]]:
    texts = [
        completion_text(rollout.completion_ids, contexts.tokenizer, policy.stop_ids)
        for rollout in rollouts
    ]
    grades: list[Any] = [None] * len(texts)
    if problem.answer is not None:
        grades = grader.grade_many([(problem.answer, text) for text in texts])
    reports = (
        _divergence(problem, rollouts, policy, contexts, teacher, config) if what.divergence else []
    )
    out.show(_heading(f"problem {problem.id}"))
    out.show(problem.question)
    entries = []
    for index, (rollout, text, grade) in enumerate(zip(rollouts, texts, grades, strict=True)):
        verdict = f", {grade.status}" if grade else ""
        who = "teacher" if what.privileged else "student"
        tokens = len(rollout.completion_ids)
        cut = ", cut at the limit" if rollout.finish_reason == "length" else ""
        out.show(_heading(f"{who}'s completion {index + 1}, {tokens} tokens{cut}{verdict}"))
        entry = {
            "problem_id": problem.id,
            "sample_index": index,
            "completion": text,
            "tokens": tokens,
            "finish_reason": rollout.finish_reason,
            "status": grade.status if grade else None,
        }
        if reports:
            entry["divergence"] = _show_divergence(rollout, reports[index], contexts, config, out)
        else:
            out.show(text)
        entries.append(entry)
    return entries


def _divergence(
    problem: Problem,
    rollouts: list[Rollout],
    policy: Policy,
    contexts: PromptBuilder,
    teacher: TeacherPrompts,
    config: Config,
) -> tuple[TokenReport, ...]:
    from backends.interface import DivergenceBatch, DivergenceItem

    items = tuple(
        DivergenceItem(
            contexts.student(problem).ids, teacher.of(problem).ids, rollout.completion_ids
        )
        for rollout in rollouts
    )
    return policy.measure(DivergenceBatch(items, config.divergence.spec(), "live")).tokens


def style_of(value: float) -> str:
    """The style of a token whose divergence is `value` nats."""
    return next(style for edge, style in SCALE if value <= edge)


def _show_divergence(
    rollout: Rollout, report: TokenReport, contexts: PromptBuilder, config: Config, out: Output
) -> dict[str, Any]:
    from rich.text import Text

    pieces = [contexts.tokenizer.decode([token]) for token in rollout.completion_ids]
    values = [float(value) for value in report.value]
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
    mean = sum(values) / len(values) if values else 0.0
    out.show(body)
    out.show(legend)
    if values:
        most = max(values)
        out.show(
            f"{config.divergence.kind}: mean {mean:.4f} nats a token, most {most:.3f} at "
            f"{pieces[values.index(most)]!r}"
        )
    else:
        out.show("the completion is empty: no token has a divergence")
    return {
        "kind": config.divergence.kind,
        "spec": asdict(config.divergence.spec()),
        "mean": mean,
        "tokens": [
            {
                "text": piece,
                "id": token,
                "value": value,
                "student_entropy": float(student),
                "teacher_entropy": float(teacher),
            }
            for piece, token, value, student, teacher in zip(
                pieces,
                rollout.completion_ids,
                values,
                report.student_entropy,
                report.teacher_entropy,
                strict=True,
            )
        ],
    }
