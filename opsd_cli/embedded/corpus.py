"""The texts the embedded model is pretrained on.

Four formats, the prompts rendered by the very code that training and evaluation use:

- *drill*: no question, only right workings one after another, to learn to calculate;
- *with the reference*: the teacher's prompt, then the working in sentences, always right;
- *without*: the student's prompt, then working as people do it, slips included;
- *thinking*: either prompt with thinking on, then the working inside think tags and a boxed answer.

The slips are the classic ones of written arithmetic: a carry forgotten in a sum or a product, and
the smaller digit taken from the larger whichever stands above (Brown and Burton, *Diagnostic models
for procedural bugs in basic mathematical skills*, 1978). So the model comes to know how to
calculate, and to have bad habits; with a reference in view it has none. That gap, as in a large
model that has read more careless text than careful, is what there is to distil.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from opsd_cli.embedded.prompt_templates import STUDENT_TEMPLATE, TEACHER_TEMPLATE
from opsd_cli.problems.arithmetic import LARGEST, Chain, Split, chains
from opsd_cli.prompts.rendering import Template, Tokenizer, student_prompt
from opsd_cli.prompts.teacher import teacher_prompt

END_OF_TURN = "<|im_end|>"
#: Problems worked in one drill, about as long as a teacher's prompt.
DRILL = 6
#: How often each operation is done by its faulty procedure; often that makes no difference.
SLIPS = {"+": 0.45, "-": 0.6, "*": 0.45}


@dataclass(frozen=True)
class Shares:
    """How often each format occurs: drills, then of the rest those with the reference; what is left
    is the student's format, with slips or without. Thinking is a variant of either prompt."""

    reference: float = 0.4
    drill: float = 0.0
    thinking: float = 0.08
    slips: bool = True


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


def faulty(op: str, value: int, operand: int) -> int:
    """The result without carrying or borrowing; both numbers below 100."""
    (tens, ones), (more_tens, more_ones) = divmod(value, 10), divmod(operand, 10)
    if op == "+":
        return (tens + more_tens) % 10 * 10 + (ones + more_ones) % 10
    if op == "-":
        return abs(tens - more_tens) * 10 + abs(ones - more_ones)
    return tens * operand % 10 * 10 + ones * operand % 10


def attempt(chain: Chain, rng: random.Random) -> Chain:
    """The chain as somebody with bad habits works it; later steps build on earlier slips."""
    while True:
        values = [chain.values[0]]
        for op, operand in chain.operations:
            value = values[-1]
            if rng.random() < SLIPS[op]:
                values.append(faulty(op, value, operand))
            else:
                sign = -1 if op == "-" else 1
                values.append(value * operand if op == "*" else value + sign * operand)
        if all(0 <= value <= LARGEST for value in values):
            return Chain(chain.operations, tuple(values))


def document(chain: Chain, tokenizer: Tokenizer, reference: bool, thinking: bool) -> Document:
    """A problem's right completion, under either prompt."""
    return _document(chain, chain, tokenizer, reference, thinking)


def _document(
    chain: Chain, worked: Chain, tokenizer: Tokenizer, reference: bool, thinking: bool
) -> Document:
    student, teacher = templates(thinking)
    problem = chain.problem()
    if reference:
        assert problem.solution is not None
        prompt = teacher_prompt(problem.question, problem.solution, teacher, tokenizer)
    else:
        prompt = student_prompt(problem.question, student, tokenizer)
    return Document(prompt.ids, tuple(tokenizer.encode(completion_text(worked, thinking))))


def drill(worked: list[Chain], tokenizer: Tokenizer) -> Document:
    """Workings without their questions and final lines."""
    text = " ".join(chain.sentences().rpartition(" So the result")[0] for chain in worked)
    start = tokenizer.encode("<|im_start|>assistant\n")
    return Document(tuple(start), tuple(tokenizer.encode(text + END_OF_TURN)))


def documents(tokenizer: Tokenizer, seed: int, shares: Shares, split: Split) -> Iterator[Document]:
    """An endless stream of documents over distinct problems of one split."""
    rng = random.Random(f"formats/{seed}")
    source = chains(split, seed)
    for chain in source:
        if rng.random() < shares.drill:
            yield drill([chain, *islice(source, DRILL - 1)], tokenizer)
            continue
        reference = rng.random() < shares.reference
        thinking = rng.random() < shares.thinking
        careless = shares.slips and not reference
        worked = attempt(chain, rng) if careless else chain
        yield _document(chain, worked, tokenizer, reference, thinking)
