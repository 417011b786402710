"""The pretraining corpus: completions are correct with the reference, and have errors without."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from opsd_cli.embedded.corpus import Shares, attempt, completion_text, documents, faulty
from opsd_cli.problems.arithmetic import chains
from tests.support.small_tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer()


@pytest.mark.parametrize(
    ("op", "value", "operand", "wrong"),
    [("+", 47, 38, 75), ("-", 52, 38, 26), ("*", 23, 4, 82), ("+", 41, 38, 79), ("-", 58, 32, 26)],
)
def test_faulty_arithmetic_forgets_carries_and_borrows(
    op: str, value: int, operand: int, wrong: int
) -> None:
    assert faulty(op, value, operand) == wrong


def test_an_attempt_has_errors_of_the_faulty_procedures_only() -> None:
    rng = random.Random(0)
    right = 0
    for chain in islice(chains("pretrain"), 500):
        worked = attempt(chain, rng)
        assert worked.operations == chain.operations and worked.values[0] == chain.values[0]
        for (op, operand), before, after in zip(
            worked.operations, worked.values, worked.values[1:], strict=False
        ):
            exact = {"+": before + operand, "-": before - operand, "*": before * operand}[op]
            assert after in (exact, faulty(op, before, operand))
        right += worked.values == chain.values
    assert 0.45 < right / 500 < 0.7


def test_completions_with_the_reference_are_always_correct() -> None:
    written = islice(documents(TOKENIZER, 0, Shares(reference=1.0), "pretrain"), 100)
    for document, chain in zip(written, chains("pretrain"), strict=False):
        thinking = "<think>\n\n" not in TOKENIZER.decode(document.prompt)
        assert TOKENIZER.decode(document.completion) == completion_text(chain, thinking)
        assert chain.reference() in TOKENIZER.decode(document.prompt)


def test_documents_without_the_reference_do_not_contain_it() -> None:
    for document in islice(documents(TOKENIZER, 0, Shares(reference=0.0), "pretrain"), 50):
        assert "solution begins" not in TOKENIZER.decode(document.prompt)
