"""The pretraining corpus of the embedded model.

Four formats, whose prompts are rendered by the code that training and evaluation use:

- *drill*: no question, only correct calculations one after another, to learn arithmetic;
- *with the reference*: the teacher's prompt, then a completion that is always correct;
- *without*: the student's prompt, then a completion in which steps may have errors;
- *thinking*: either prompt with thinking enabled, then the steps in think tags and a boxed answer.

The errors are systematic errors of written arithmetic: a forgotten carry in a sum or a product, and
the smaller digit subtracted from the larger in either order (Brown and Burton, *Diagnostic models
for procedural bugs in basic mathematical skills*, 1978). The model therefore learns to calculate
both correctly and incorrectly without a reference, and correctly with one. The difference in
accuracy is what self-distillation can learn.
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
#: Chains in one drill document, which is then about as long as a teacher's prompt.
DRILL_CHAINS = 6
#: Probability that a step uses the faulty procedure of its operation, whose result may be correct.
ERROR_RATES = {"+": 0.45, "-": 0.6, "*": 0.45}


@dataclass(frozen=True)
class Shares:
    """Shares of the formats in the corpus.

    Attributes:
        drill: share of drills among all documents.
        reference: share of the others that have the teacher's prompt; the rest have the student's.
        thinking: share of the prompts of either kind that have thinking enabled.
        slips: whether completions under the student's prompt have errors.
    """

    reference: float = 0.4
    drill: float = 0.0
    thinking: float = 0.08
    slips: bool = True


@dataclass(frozen=True)
class Document:
    """Token ids of a prompt and a completion; the loss is on the completion only."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def templates(thinking: bool) -> tuple[Template, Template]:
    """The student's and the teacher's template, both with the given `enable_thinking`."""
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
    """The result without carries or borrows; both numbers are below 100."""
    (tens, ones), (more_tens, more_ones) = divmod(value, 10), divmod(operand, 10)
    if op == "+":
        return (tens + more_tens) % 10 * 10 + (ones + more_ones) % 10
    if op == "-":
        return abs(tens - more_tens) * 10 + abs(ones - more_ones)
    return tens * operand % 10 * 10 + ones * operand % 10


def attempt(chain: Chain, rng: random.Random) -> Chain:
    """The chain with random errors; later steps continue from the wrong results of earlier ones."""
    while True:
        values = [chain.values[0]]
        for op, operand in chain.operations:
            value = values[-1]
            if rng.random() < ERROR_RATES[op]:
                values.append(faulty(op, value, operand))
            else:
                sign = -1 if op == "-" else 1
                values.append(value * operand if op == "*" else value + sign * operand)
        if all(0 <= value <= LARGEST for value in values):
            return Chain(chain.operations, tuple(values))


def document(chain: Chain, tokenizer: Tokenizer, reference: bool, thinking: bool) -> Document:
    """A problem with its correct completion, under the teacher's or the student's prompt."""
    return _document(chain, chain, tokenizer, reference, thinking)


def _document(
    chain: Chain, attempted: Chain, tokenizer: Tokenizer, reference: bool, thinking: bool
) -> Document:
    student, teacher = templates(thinking)
    problem = chain.problem()
    if reference:
        assert problem.solution is not None
        prompt = teacher_prompt(problem.question, problem.solution, teacher, tokenizer)
    else:
        prompt = student_prompt(problem.question, student, tokenizer)
    return Document(prompt.ids, tuple(tokenizer.encode(completion_text(attempted, thinking))))


def drill(examples: list[Chain], tokenizer: Tokenizer) -> Document:
    """The steps of several chains, without questions and final sentences."""
    text = " ".join(chain.sentences().rpartition(" So the result")[0] for chain in examples)
    start = tokenizer.encode("<|im_start|>assistant\n")
    return Document(tuple(start), tuple(tokenizer.encode(text + END_OF_TURN)))


def documents(tokenizer: Tokenizer, seed: int, shares: Shares, split: Split) -> Iterator[Document]:
    """An infinite stream of documents over distinct problems of one split."""
    rng = random.Random(f"formats/{seed}")
    source = chains(split, seed)
    for chain in source:
        if rng.random() < shares.drill:
            yield drill([chain, *islice(source, DRILL_CHAINS - 1)], tokenizer)
            continue
        reference = rng.random() < shares.reference
        thinking = rng.random() < shares.thinking
        with_errors = shares.slips and not reference
        attempted = attempt(chain, rng) if with_errors else chain
        yield _document(chain, attempted, tokenizer, reference, thinking)
