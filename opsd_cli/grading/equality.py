r"""Whether two normalised texts are equal as mathematics: math-verify, and what it gets wrong.

It accepts some answers wrongly, which is decided here before or after it is asked:

* it lowers all letters, so that `\pi R^2` is `\pi r^2`;
* it rounds decimals to a fixed number of places, which makes zero of most of physics: decimals
  become fractions here, and a rounded one counts only by the rule in `_rounded`;
* it chops differences below the numeric precision: 2^-400 would equal 2^-399, see `_same_size`.

Its timeouts are off: the supervisor kills. No text of a model is ever evaluated but by its LaTeX
parser.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, I, Rational, nan, zoo

# Units, boxes and malformed operators are dealt with in normalise.py, which is stricter.
_EXTRACTION = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="last"
        ),
    )
]
#: A decimal with fewer places than this is not taken for the rounded form of a fraction or root.
_PLACES_OF_A_ROUNDED_GOLD = 6
_PLACES_OF_A_ROUNDED_ANSWER = 10

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_LETTER = re.compile(r"(\\text\{[^{}]*\}|\\mathbb\s*\{?[A-Z]\}?|\\[A-Za-z]+)|([A-Za-z])")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def _case_apart(gold: str, answer: str) -> tuple[str, str]:
    """Both with letters that occur in both cases renamed, because the parser lowers all letters."""
    found = {m[2] for m in _LETTER.finditer(gold + " " + answer) if m[2]}
    twice = sorted(c for c in found if c.isupper() and c.lower() in found)
    free = [c for c in "qwvutszyxpnmlkjrcba" if c not in found and c.upper() not in found]
    new = dict(zip(twice, free, strict=False))
    first, second = (
        _LETTER.sub(lambda m: m[1] or new.get(m[2], m[2]), text) for text in (gold, answer)
    )
    return first, second


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
def read(text: str) -> Any:
    """What a normalised text means to math-verify, or None."""
    if re.search(r"(?<![_^])\d\s+\d", text):  # would be read as a sum
        return None
    latex = _degrees_to_radians(_decimals_exact(text))
    parsed = parse(
        rf"\boxed{{{latex}}}",
        extraction_config=_EXTRACTION,
        fallback_mode="no_fallback",
        parsing_timeout=None,  # the supervisor kills; an alarm does not fire inside C code
    )
    return parsed[0] if parsed else None


def _complex(parsed: Any) -> Any:
    """With the letter i as the imaginary unit, where it is the only letter."""
    if isinstance(parsed, Expr) and {symbol.name for symbol in parsed.free_symbols} == {"i"}:
        return parsed.subs({symbol: I for symbol in parsed.free_symbols})
    return parsed


def value_of(text: str) -> Any:
    parsed = read(text)
    try:
        return parsed.doit() if isinstance(parsed, Basic) else parsed
    except Exception:
        return parsed


def equal(gold: str, answer: str) -> bool:
    gold_parsed, parsed = map(_complex, map(read, _case_apart(gold, answer)))
    if gold_parsed is None or parsed is None:
        return False
    same = verify(
        [gold_parsed],
        [parsed],
        numeric_precision=100,
        float_rounding=10,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )
    return (same and _same_size(gold_parsed, parsed)) or _rounded(gold, answer)


def _same_size(gold: Any, answer: Any) -> bool:
    """A second look at two numbers found equal: they must agree relative to their size."""
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return True
    if gold.free_symbols or answer.free_symbols:
        return True
    try:
        difference = gold.doit() - answer.doit()
        if difference == 0 or difference is nan or difference is zoo:
            return True  # infinities that are equal differ by nan
        sizes = [abs(side.evalf(30)) for side in (gold, answer)]
        gap = abs(difference.evalf(30))
    except Exception:
        return True
    if not all(size.is_Float for size in (*sizes, gap) if size != 0):
        return True
    return bool(gap <= max(sizes) * Rational(1, 10**15)) or gap._prec == 1


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
