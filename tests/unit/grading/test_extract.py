r"""Extraction of the answer from completions and golds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_cli.grading.extract import completion_answer, gold_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\frac{1}{x^{2}}} is it", r"\frac{1}{x^{2}}"),
        (r"\boxed{2}. Wait: \boxed{3}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {18}", "18"),
        (r"\fbox{18}", "18"),
        (r"<think>\boxed{1}</think> so \boxed{2}", "2"),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}", None),
        (r"<think>\boxed{1}</think> I cannot say which of them it would be.", None),
        (r"\boxed{1} but then \boxed{2", None),
        (r"\boxed{}", None),
        ("**Final Answer:** 4", "4"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("42", "42"),
        ("", None),
        ("It is hard to say what it is.", None),
    ],
)
def test_extraction_from_a_completion(text: str, answer: str | None) -> None:
    assert completion_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("$-3$", "$-3$"),
        (r"So $\boxed{3}$ ... finally $\boxed{10}$.", "10"),
        ("He pays 18.\n#### 1,234", "1,234"),
        (r"\boxed{3", None),
        ("  ", None),
    ],
)
def test_extraction_from_a_gold(text: str, answer: str | None) -> None:
    assert gold_answer(text) == answer


balanced = st.recursive(
    st.text("ab1+ ", max_size=5), lambda inner: st.tuples(inner, inner).map("{%s}%s".__mod__)
)


@given(balanced, st.text("ab{}\\ \n", max_size=20).filter(lambda text: "boxed" not in text))
def test_extraction_returns_the_content_of_a_box(content: str, before: str) -> None:
    # A backslash right before the box would escape the box's own.
    assert last_boxed(f"{before} \\boxed{{{content}}} end.") == content.strip()


@pytest.mark.parametrize(
    "text",
    [
        "answer" + " " * 200_000 + "x\n4",
        "the" + " " * 200_000 + "x\n4",
        "answer " * 30_000,
        r"\boxed{" * 30_000,
        r"\boxed{" * 15_000 + "}" * 15_000,
        r"\boxed" + " " * 200_000,
        "{" * 200_000,
        "*_" * 100_000,
        "0" * 200_000 + "x",
    ],
    ids=lambda text: text[:8],
)
def test_extraction_is_linear_in_the_length_of_the_text(text: str) -> None:
    # Work quadratic in the length would not end here for minutes.
    completion_answer(text)
    gold_answer(text)
