r"""Mathematical equality of two normalised texts.

latex2sympy2_extended, the parser of math-verify, parses them; `symbolic` compares the results. The
parser is only given the whole text: where math-verify's own `parse` fails, it tries any simple
fraction within, so that `10^{1.7} L` would be 1.7. Notations that the parser misreads are rewritten
first:

* identifiers: see `identifiers`;
* decimals become fractions, since the parser makes floats of them; a rounded decimal equals a
  fraction or root only by the rule in `_rounded`.

A model's text is evaluated by this LaTeX parser and by nothing else. There is no time limit here:
the supervisor kills the process.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy import Basic, Expr, Rational

from opsd_cli.grading.identifiers import mark_identifiers, uses_index_i
from opsd_cli.grading.symbolic import equivalent

_CONVERSION = ConversionConfig(lowercase_symbols=False)
#: Decimal places that a decimal needs to be accepted as the rounded form of a fraction or root.
_MIN_PLACES_GOLD = 6
_MIN_PLACES_ANSWER = 10

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def _decimals_exact(text: str) -> str:
    return _DECIMAL.sub(
        lambda m: rf"\frac{{{int((m[1] or '0') + m[2])}}}{{1{'0' * len(m[2])}}}", text
    )


def _degrees_to_radians(text: str) -> str:
    """Convert degrees to radians if a trigonometric function occurs, else drop the degree sign."""
    if "^\\circ" not in text:
        return text
    if not TRIGONOMETRIC.search(text):
        return text.replace("^\\circ", "")
    return re.sub(r"(\\frac\{\d+\}\{\d+\}|\d+|[A-Za-z])\s*\^\\circ", r"{\\frac{\1\\pi}{180}}", text)


@lru_cache(maxsize=256)
def parse_latex(text: str, imaginary: bool = True) -> Any:
    """The sympy object that a normalised text is parsed to; None if it cannot be parsed.

    Args:
        imaginary: whether a letter i that stands alone is the imaginary unit.
    """
    if re.search(r"(?<![_^])\d\s+\d", text):  # would be read as a sum
        return None
    try:
        latex = mark_identifiers(_degrees_to_radians(_decimals_exact(text)), imaginary)
    except ValueError:
        return None
    try:
        return _parsed(latex)
    except Exception:
        pass
    # `area = \text{half of } 12 = 6`: the last term of a chain of equations is the answer.
    *before, last = re.split(r"(?<![\\<>!])=", latex)
    if len(before) < 2 or "," in latex or ";" in latex:
        return None
    try:
        return _parsed(last)
    except Exception:
        return None


def _parsed(latex: str) -> Any:
    return latex2sympy(
        latex, is_real=True, normalization_config=None, conversion_config=_CONVERSION
    )


def value_of(text: str) -> Any:
    """A normalised text parsed and evaluated; None if it cannot be parsed."""
    parsed = parse_latex(text)
    try:
        return parsed.doit() if isinstance(parsed, Basic) else parsed
    except Exception:
        return parsed


def equal(gold: str, answer: str) -> bool:
    """True if both texts can be parsed and are mathematically equal."""
    imaginary = not (uses_index_i(gold) or uses_index_i(answer))
    gold_parsed, parsed = parse_latex(gold, imaginary), parse_latex(answer, imaginary)
    if gold_parsed is None or parsed is None:
        return False
    return equivalent(gold_parsed, parsed) or _rounded(gold, answer)


def _rounded(gold: str, answer: str) -> bool:
    """True if one is a decimal and the other, which has no finite decimal form, rounds to it.

    `0.333333` may stand for 1/3. The required number of places makes a coincidence unlikely. A
    value with a finite decimal form is not accepted, since it could have been written exactly.
    """
    for text, other, min_places in (
        (gold, answer, _MIN_PLACES_GOLD),
        (answer, gold, _MIN_PLACES_ANSWER),
    ):
        match = re.fullmatch(r"-?(\d*)\.(\d+)", text.replace(" ", ""))
        if (
            not match
            or len((match[1] + match[2]).lstrip("0")) < min_places
            or len(match[2]) < min_places
        ):
            continue
        value, exact = value_of(other), value_of(text)
        if not (isinstance(value, Expr) and isinstance(exact, Rational)) or value.free_symbols:
            continue
        if isinstance(value, Rational) and _terminates(value):
            continue
        gap = abs((value - exact).evalf(50))
        if gap.is_Float and gap <= Rational(1, 2 * 10 ** len(match[2])):
            return True
    return False


def _terminates(value: Rational) -> bool:
    bottom = int(value.q)
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom == 1
