"""Few-shot: which worked examples stand before the question, and what an example's answer is.

Examples are the first problems of `prompts.few_shot.source`, or are drawn from the training
problems, by a hash of their ids and `prompts.few_shot.seed`, and are then not trained on. They are
never validation or test problems: an example that is also one of those is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.grading.extract import marks_answer
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.same_questions import divided, refuse_shared

if TYPE_CHECKING:
    from opsd_cli.problems.sources import Splits

#: What was chosen for the configs of this process, since each builder of prompts asks for it.
_known: dict[str, tuple[Problem, ...]] = {}


def examples_of(config: Config) -> tuple[Problem, ...]:
    """The worked examples of a config's prompts; empty without `prompts.few_shot.examples`.

    Raises:
        DataError: they cannot be read, or there are too few.
    """
    settings = config.prompts.few_shot
    if not settings.examples:
        return ()
    key = _key(config)
    if key not in _known:
        from opsd_cli.problems.sources import load_examples

        if settings.source is None:
            _known[key] = _of_training(config)
        else:
            loaded = load_examples(settings.source, config, settings.examples)
            if len(_usable(config, loaded.problems)) < settings.examples:  # later rows may be
                loaded = load_examples(settings.source, config, None)
            _known[key] = _enough(config, loaded.problems, loaded.name)
    return _known[key]


def with_examples(config: Config, splits: Splits) -> Splits:
    """The splits, with the training problems that serve as worked examples left out.

    Raises:
        DataError: there are too few, or one is also a validation or test problem.
    """
    settings = config.prompts.few_shot
    if not settings.examples:
        return splits
    if settings.source is None:
        _known[_key(config)] = _drawn(config, splits.train)
    examples = examples_of(config)
    shown = replace(splits.train, name="the few-shot examples", problems=examples)
    for held_out in (splits.validation, splits.test):
        refuse_shared(
            shown,
            held_out,
            "remove them from prompts.few_shot.source: what is measured must not be in prompts",
        )
    left, removed = divided(splits.train.problems, examples)
    if not left:
        raise DataError(
            f"every problem of {splits.train.name} is a few-shot example",
            "lower prompts.few_shot.examples, or bring more problems",
        )
    note = f"{splits.train.name}: {len(removed):,} left out, as they are few-shot examples"
    return replace(
        splits,
        train=replace(splits.train, problems=left),
        notes=(*splits.notes, note) if removed else splits.notes,
        few_shot=examples,
    )


def response_of(example: Problem, template: str | None) -> str:
    """The answer of an example as the model is shown it.

    Args:
        template: `prompts.few_shot.response`; None for the solution, followed by the answer in a
            box unless the solution marks its answer.
    """
    solution, answer = (example.solution or "").strip(), example.answer or ""
    if template is not None:
        from opsd_cli.prompts.rendering import Template

        return Template(template).fill(solution=solution, answer=answer)
    if answer and not marks_answer(solution):
        return f"{solution}\n\\boxed{{{answer}}}"
    return solution


def digest(examples: Sequence[Problem]) -> str:
    """Hash of questions, solutions and answers in order."""
    text = "\x1f".join(f"{p.question}\x1e{p.solution}\x1e{p.answer}" for p in examples)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(config: Config) -> str:
    """What the choice depends on: settings, and the newest change of the files that they name."""
    settings = config.prompts.few_shot
    changed = []
    for name in filter(None, (settings.source, *config.data.model_dump().values())):
        try:
            changed.append(Path(str(name)).stat().st_mtime_ns)
        except (OSError, ValueError):  # no file
            continue
    chosen_by = (
        config.model_dump_json(include={"data", "method", "teacher"}) + settings.model_dump_json()
    )
    return f"{Path.cwd()} {changed} {chosen_by}"


def _of_training(config: Config) -> tuple[Problem, ...]:
    """Those that `with_examples` draws from the training problems."""
    from opsd_cli.problems.sources import load_splits

    try:
        return load_splits(config).few_shot
    except DataError:
        # An evaluation's grader may read columns that its benchmark has and the training set lacks.
        data = config.data.model_copy(update={"fields": type(config.data)().fields})
        changes = {"data": data, "grading": type(config.grading)()}
        plain = config.model_copy(update=changes)
        if plain == config:
            raise
        return load_splits(plain).few_shot


def _drawn(config: Config, train: ProblemSet) -> tuple[Problem, ...]:
    def order(problem: Problem) -> bytes:
        return hashlib.sha256(f"{config.prompts.few_shot.seed}:{problem.id}".encode()).digest()

    return _enough(config, sorted(train.problems, key=order), train.name)


def _usable(config: Config, problems: Sequence[Problem]) -> list[Problem]:
    """The problems that can be worked examples.

    An example is one question and its answer: a conversation of several turns is none.
    """
    response = config.prompts.few_shot.response
    worked = response is None or "{solution}" in response
    single = [problem for problem in problems if not problem.earlier_turns]
    return [problem for problem in single if problem.solution or not worked]


def _enough(config: Config, problems: Sequence[Problem], name: str) -> tuple[Problem, ...]:
    usable, wanted = _usable(config, problems), config.prompts.few_shot.examples
    if len(usable) < wanted:
        chats = sum(bool(problem.earlier_turns) for problem in problems)
        why = (
            f"; {chats:,} of its {len(problems):,} problems are chats of several turns, which are "
            "no examples"
        )
        raise DataError(
            f"{name} has {len(usable)} worked examples, and prompts.few_shot.examples asks for "
            f"{wanted}{why if chats else ''}",
            "lower it, or name a set with more in prompts.few_shot.source",
        )
    return tuple(usable[:wanted])
