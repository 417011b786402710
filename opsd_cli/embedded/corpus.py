"""The texts the embedded model is pretrained on.

Three formats, each rendered by the very code that training and evaluation use:

- *with the reference*: the teacher's prompt, then the working in sentences;
- *without*: the student's prompt, then the same working;
- *thinking*: either prompt with thinking on, then the working inside think tags and a boxed answer.

The completion is always right. The model is nevertheless wrong about half the time without the
reference, because its pretraining stops early, while it still guesses at sums; carrying values over
from equations is learnt much sooner. That gap is what there is to distil.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from opsd_cli.privileged import TEACHER_TEMPLATE, teacher_prompt
from opsd_cli.problems.arithmetic import Chain, Split, chains
from opsd_cli.prompts import STUDENT_TEMPLATE, Template, Tokenizer, student_prompt

END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class Shares:
    """How often each format occurs; the rest is the plain student format."""

    reference: float = 0.45
    thinking: float = 0.08


@dataclass(frozen=True)
class Document:
    """Prompt and completion token ids; only the completion is learnt."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def templates(thinking: bool) -> tuple[Template, Template]:
    """The student's and the teacher's template with the thinking flag given to both."""
    arguments = {"enable_thinking": thinking}
    return (
        Template(STUDENT_TEMPLATE, arguments=arguments),
        Template(TEACHER_TEMPLATE, arguments=arguments),
    )


def completion_text(chain: Chain, thinking: bool) -> str:
    if not thinking:
        return chain.sentences() + END_OF_TURN
    final = f"\\boxed{{{chain.values[-1]}}}"
    return f"<think>\n{chain.sentences()}\n</think>\n\n{final}{END_OF_TURN}"


def document(chain: Chain, tokenizer: Tokenizer, reference: bool, thinking: bool) -> Document:
    student, teacher = templates(thinking)
    problem = chain.problem()
    if reference:
        assert problem.solution is not None
        prompt = teacher_prompt(problem.question, problem.solution, teacher, tokenizer)
    else:
        prompt = student_prompt(problem.question, student, tokenizer)
    return Document(prompt.ids, tuple(tokenizer.encode(completion_text(chain, thinking))))


def documents(tokenizer: Tokenizer, seed: int, shares: Shares, split: Split) -> Iterator[Document]:
    """An endless stream of documents over distinct problems of one split."""
    rng = random.Random(f"formats/{seed}")
    for chain in chains(split, seed):
        yield document(
            chain,
            tokenizer,
            reference=rng.random() < shares.reference,
            thinking=rng.random() < shares.thinking,
        )
