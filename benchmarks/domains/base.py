"""A small base model for a domain, pretrained as the embedded model is.

In the first phase every completion is right, with and without the reference: the model learns to do
the task. In the second, completions without a reference are attempts, which have faults at a set
rate; with a reference they stay right. So the model can do the task, and does it reliably only with
a reference. That gap is made on purpose: it is what the run is to close.

Prompts are rendered from the domain's preset by the code that training and evaluation use.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from backends.pytorch.pretrain import Learner, Recipe, batches, sampled
from benchmarks.domains.example import Domain, Example
from opsd_cli.config.schema import Config
from opsd_cli.embedded.corpus import END_OF_TURN, Document
from opsd_cli.embedded.tokenizer import build_tokenizer
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.shown_options import with_options
from opsd_cli.prompts.rendering import Template, Tokenizer

RECIPE = Recipe(
    hidden=64,
    layers=2,
    intermediate=128,
    head_dim=16,
    batch=32,
    learning_rate=5e-3,
    warmup=50,
    school=1200,
    steps=1500,
    decay=300,
    evaluate_every=300,
    evaluate_problems=64,
    initializer_range=0.1,
)
#: Steps of pretraining in which completions without a reference are attempts.
ATTEMPTS = 300
#: Stands for a turn in the text of a chat.
_PLACE = "PLACE"
#: Share of the documents that have the teacher's prompt.
WITH_REFERENCE = 0.5
#: Problems whose texts the tokenizer is trained on.
TOKENIZER_PROBLEMS = 1000


@dataclass(frozen=True)
class Measured:
    """Shares of validation problems that one sample each, at temperature 1, answers right.

    Attributes:
        with_another: with the reference of another problem.
    """

    step: int
    without_reference: float
    with_reference: float
    with_another: float


def problem_of(example: Example, config: Config) -> Problem:
    """The example as a run reads it from a file."""
    row = example.row
    fields = {name: row[name] for name in row if name not in ("question", "solution", "answer")}
    problem = Problem(
        example.key, row["question"], row.get("solution"), row.get("answer"), "", fields
    )
    report = LoadReport(rows=1, used=1)
    return with_options(ProblemSet("", (problem,), report), config).problems[0]


class Prompts:
    """Token ids of both roles' prompts, the same as in a run, but made a hundred times faster.

    The chat template is asked once for each role; a run asks it for every prompt, in a process of
    its own. So templates that depend on the text of a turn are not supported; the tests compare.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        student, teacher = config.prompts.student, config.prompts.teacher
        self._roles = tuple(
            (
                Template(role.template),
                tokenizer.render_chat(
                    [{"role": "user", "content": _PLACE}], True, **role.chat_arguments
                ).partition(_PLACE),
            )
            for role in (student, teacher)
        )

    def ids(self, example: Example, reference: str | None) -> tuple[int, ...]:
        """Those of the student's prompt, or of the teacher's with a reference."""
        question = problem_of(example, self._config).question
        template, (before, _, after) = self._roles[reference is not None]
        turn = template.fill(question=question, solution=reference or "")
        return tuple(self._tokenizer.encode(before + turn + after))


def documents(
    domain: Domain, prompts: Prompts, tokenizer: Tokenizer, seed: int, faults: bool
) -> Iterator[Document]:
    """An endless stream of documents of the pretraining split.

    Args:
        faults: whether completions without a reference are attempts.
    """
    rng = random.Random(f"formats/{domain.name}/{seed}")
    for example in domain.examples("pretrain", seed):
        reference = example.reference if rng.random() < WITH_REFERENCE else None
        text = example.attempt if faults and reference is None else example.right
        completion = tuple(tokenizer.encode(text + END_OF_TURN))
        yield Document(prompts.ids(example, reference), completion)


def tokenizer_texts(domain: Domain, config: Config, seed: int) -> Iterator[str]:
    """The texts of problems with their references and completions."""
    for example in islice(domain.examples("pretrain", seed), TOKENIZER_PROBLEMS):
        problem = problem_of(example, config)
        yield config.prompts.teacher.template.replace("{question}", problem.question).replace(
            "{solution}", example.reference
        )
        yield config.prompts.student.template.replace("{question}", problem.question)
        yield example.right
        yield example.attempt
    yield "user\nassistant\n"


def measure(
    domain: Domain, prompts: Prompts, longest: int, learner: Learner, step: int
) -> Measured:
    """Accuracies on validation problems, with the weights as they are.

    Args:
        longest: tokens of a completion at most.
    """
    drawn = list(islice(domain.examples("validation"), learner.recipe.evaluate_problems))
    references: tuple[list[str | None], ...] = (
        [None] * len(drawn),
        [example.reference for example in drawn],
        [example.reference for example in drawn[1:] + drawn[:1]],
    )
    shares = []
    for given in references:
        asked = [prompts.ids(*each) for each in zip(drawn, given, strict=True)]
        texts = sampled(learner.model, learner.tokenizer, asked, longest, seed=0)
        right = [
            domain.accepts(example, text.partition(END_OF_TURN)[0])
            for example, text in zip(drawn, texts, strict=True)
        ]
        shares.append(sum(right) / len(right))
    return Measured(step, *shares)


def recipe_of(domain: Domain) -> Recipe:
    """The recipe of a domain's model: its practice, then attempts."""
    return replace(RECIPE, school=domain.practice, steps=domain.practice + ATTEMPTS)


def pretrain(
    domain: Domain,
    config: Config,
    folder: Path,
    report: Callable[[int, float, Measured | None], None],
    recipe: Recipe,
) -> list[Measured]:
    """Write a base model's files into `folder`; returns every measurement made.

    Args:
        config: the domain's preset.
        report: called after each step with the step, its loss, and a measurement if one was made.
    """
    build_tokenizer(folder, tokenizer_texts(domain, config, recipe.seed))
    learner = Learner(recipe, folder)
    prompts, longest = Prompts(config, learner.tokenizer), config.sampling.max_new_tokens
    right, attempts = (
        batches(documents(domain, prompts, learner.tokenizer, seed, faults), recipe.batch)
        for seed, faults in ((recipe.seed, False), (recipe.seed + 1, True))
    )
    history: list[Measured] = []
    for step in range(1, recipe.steps + 1):
        loss = learner.learn(next(right if step <= recipe.school else attempts), step)
        if step % recipe.evaluate_every == 0 or step == recipe.steps:
            history.append(measure(domain, prompts, longest, learner, step))
            report(step, loss, history[-1])
        else:
            report(step, loss, None)
    learner.model.save_pretrained(folder)
    told = {"recipe": asdict(recipe), "history": [asdict(each) for each in history]}
    (folder / "recipe.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return history
