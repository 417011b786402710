r"""Whether two normalised texts are equal as mathematics.

latex2sympy2_extended, the parser of math-verify, reads them; `values` compares what it read. The
parser is called for the whole text and for nothing else: math-verify's own `parse` goes on, where
it fails, to any simple fraction within, so that `10^{1.7} L` would be 1.7. What else it reads wrong
is rewritten first:

* names: see `atoms`;
* decimals become fractions, since it makes floats of them; a rounded one counts only by the rule
  in `_rounded`.

No text of a model is ever evaluated but by this LaTeX parser. Nothing here limits its time: the
supervisor kills.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy import Basic, Expr, Rational

from opsd_cli.grading.identifiers import indexed, variables
from opsd_cli.grading.symbolic import same

_CONVERSION = ConversionConfig(lowercase_symbols=False)
#: A decimal with fewer places than this is not taken for the rounded form of a fraction or root.
_PLACES_OF_A_ROUNDED_GOLD = 6
_PLACES_OF_A_ROUNDED_ANSWER = 10

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def _decimals_exact(text: str) -> str:
    return _DECIMAL.sub(
        lambda m: rf"\frac{{{int((m[1] or '0') + m[2])}}}{{1{'0' * len(m[2])}}}", text
    )


def _degrees_to_radians(text: str) -> str:
    """Degrees within trigonometric functions in radians; elsewhere they are a unit, and dropped."""
    if "^\\circ" not in text:
        return text
    if not TRIGONOMETRIC.search(text):
        return text.replace("^\\circ", "")
    return re.sub(r"(\\frac\{\d+\}\{\d+\}|\d+|[A-Za-z])\s*\^\\circ", r"{\\frac{\1\\pi}{180}}", text)


@lru_cache(maxsize=256)
def read(text: str, imaginary: bool = True) -> Any:
    """What a normalised text means to the parser, or None."""
    if re.search(r"(?<![_^])\d\s+\d", text):  # would be read as a sum
        return None
    try:
        latex = variables(_degrees_to_radians(_decimals_exact(text)), imaginary)
    except ValueError:
        return None
    try:
        return _parsed(latex)
    except Exception:
        pass
    # `area = \text{half of } 12 = 6`: what stands last is what is meant.
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
    parsed = read(text)
    try:
        return parsed.doit() if isinstance(parsed, Basic) else parsed
    except Exception:
        return parsed


def equal(gold: str, answer: str) -> bool:
    imaginary = not (indexed(gold) or indexed(answer))
    gold_parsed, parsed = read(gold, imaginary), read(answer, imaginary)
    if gold_parsed is None or parsed is None:
        return False
    return same(gold_parsed, parsed) or _rounded(gold, answer)


def _rounded(gold: str, answer: str) -> bool:
    """Whether one is a decimal and the other, which no decimal equals, rounds to it.

    `0.333333` is 1/3 to somebody. The places asked for make an accident unlikely; a value that has
    a finite decimal is never rounded, since whoever wrote the decimal would have written it out.
    """
    for text, other, least in (
        (gold, answer, _PLACES_OF_A_ROUNDED_GOLD),
        (answer, gold, _PLACES_OF_A_ROUNDED_ANSWER),
    ):
        match = re.fullmatch(r"-?(\d*)\.(\d+)", text.replace(" ", ""))
        if not match or len((match[1] + match[2]).lstrip("0")) < least or len(match[2]) < least:
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
