r"""Whether an answer equals the gold. Runs within a worker only: it imports sympy, and may hang.

The shape (a list, a set, a tuple, an interval) is compared here, and math-verify compares only what
stands inside, piece by piece. Left to itself it takes `2,2` for `2`, a tuple for a set, and pairs
up sets by a sort that it hopes is the same on both sides. Other things that it accepts wrongly, and
that are decided here before or after it is asked:

* it drops the base of `1010_3`, any unit, and the case of letters (`\pi R^2` for `\pi r^2`);
* it rounds decimals to a fixed number of places, so that all of physics is zero: decimals become
  fractions here, and a rounded one counts only by the rule in `_rounded`;
* it chops differences below the numeric precision: 2^-400 would equal 2^-399, see `_same_size`;
* it multiplies letters: `\text{tea}` would equal `eat`, so words are compared as words.

No text of a model is ever evaluated but by math-verify's own LaTeX parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, Rational, nan, zoo

from opsd_cli.grading import units
from opsd_cli.grading.normalise import normalise, split_top

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

_NAME = r"(?:\\?[A-Za-z]+'*(?:_(?:\w|\{\w+\}))?|\\(?:vec|mathbf|overrightarrow)\{\w+\})"
_NAMED = re.compile(
    rf"^({_NAME}(?:\s*\([\w, ]+\))?|\([A-Za-z](?:\s*,\s*[A-Za-z])+\))\s*=\s*(?=[(\[\\])"
)
_MEMBER = re.compile(rf"^{_NAME}\s*\\in(?![A-Za-z])\s*")
_DOMAIN = re.compile(r"^\(?\s*[A-Za-z](?:_\w)?\s*\\in\s*\\mathbb\s*\{?[ZNQRC]\}?\s*\)?$")
_BASE = re.compile(r"^\(?([0-9][0-9A-Fa-f]*)\)?_\{?(?:\\text\{)?\s*(\d+|[a-z]+)\s*\}*$")
_BASE_NAMES = {"two": "2", "three": "3", "eight": "8", "ten": "10", "sixteen": "16"}
_TIME = re.compile(r"^(\d{1,2}):(\d{2})([ap])?\.?(?:m\.?)?$", re.IGNORECASE)
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_UNIT_TEXT = re.compile(
    r"(?P<unit>(?:\s*\^\\circ)?\s*\\text\{[^{}]*\}(?:\s*\^\s*\{?-?\d+\}?)?"
    r"(?:\s*(?:/|\\cdot)?\s*\\text\{[^{}]*\}(?:\s*\^\s*\{?-?\d+\}?)?)*)$"
)
_BARE_NOUN = re.compile(r"(?<=\d)(?P<unit>\s+(?=[a-z]*[aeiou])[a-z]{4,})$")
_CURRENCY = re.compile(r"^(?P<sign>-?)\s*(?P<unit>\\\$|[$€£¥₹])\s*")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_SPACE = re.compile(r"((?<=[A-Za-z])\s+(?=[A-Za-z])|(?<=\d)\s+(?=\d)|(?<=\\)\s)|\s+")
_LETTER = re.compile(r"(\\text\{[^{}]*\}|\\mathbb\s*\{?[A-Z]\}?|\\[A-Za-z]+)|([A-Za-z])")

Verdict = Literal["correct", "wrong", "no_answer", "unparsable_gold"]


@dataclass(frozen=True)
class Shape:
    """A sequence of answers and the brackets around it, none for a bare list."""

    opening: str
    closing: str
    items: tuple[str, ...]


def compare(gold: str, answer: str) -> Verdict:
    """Compares an answer with the gold, both as extracted, not yet normalised.

    An answer that is the gold's very text is correct even if nobody can parse it; a gold that
    cannot be read is reported only where it failed to match.
    """
    if _compact(gold) == _compact(answer):
        return "correct"
    try:
        gold = _without_domains(normalise(gold))
        if not gold:
            return "unparsable_gold"
        answer = _without_domains(normalise(answer))
        if not answer:
            return "no_answer"
        if _same(gold, answer):
            return "correct"
    except MemoryError:
        raise
    except Exception:  # too deep, too long, or mathematics that sympy trips over
        pass
    return "wrong" if _readable(gold) else "unparsable_gold"


def _compact(text: str) -> str:
    """The text without the spaces that cannot matter; one between digits or letters can."""
    return _SPACE.sub(lambda m: " " if m[1] else "", re.sub(r"\\\\\s+", r"\\\\", text))


def _without_domains(text: str) -> str:
    r"""Without items such as `k \in \mathbb{Z}`, which say what a letter of another item is."""
    parts = split_top(text)
    kept = [part for part in parts if not _DOMAIN.match(part)]
    return ", ".join(kept) if 0 < len(kept) < len(parts) else text


# --- shapes -----------------------------------------------------------------------------------


def _shape(text: str) -> Shape | None:
    """The sequence that a text is, or None for a single thing."""
    parts = split_top(text)
    if len(parts) > 1:
        return Shape("", "", tuple(parts)) if all(parts) else None
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if not _closed(inner):
        return None
    items = split_top(inner)
    if (len(items) > 1 or opening == "\\{") and all(items):
        return Shape(opening, closing, tuple(items))
    return None


def _closed(inner: str) -> bool:
    """Whether brackets never close more than was opened, so that the outer pair is one pair."""
    depth = 0
    for token in re.findall(r"\\[{}]|[(){}\[\]]", inner):
        depth += 1 if token in ("\\{", "{", "(", "[") else -1
        if depth < 0:
            return False
    return depth == 0


def _bare(text: str) -> str:
    """The text without brackets around all of it that only group."""
    while text[:1] + text[-1:] in ("()", "{}") and _closed(text[1:-1]) and not _shape(text):
        text = text[1:-1].strip()
    return text


def _same(gold: str, answer: str) -> bool:
    gold, answer = _bare(gold), _bare(answer)
    if _compact(gold) == _compact(answer):
        return True
    (gold_name, gold), (name, answer) = _unname(gold), _unname(answer)
    if gold_name and name and _compact(gold_name) != _compact(name):
        return False
    gold_shape, shape = _shape(gold), _shape(answer)
    if gold_shape and shape:
        return _same_shapes(gold_shape, shape)
    if gold_shape or shape:
        only = gold_shape or shape
        assert only is not None
        if only.opening == "\\{" and len(only.items) == 1:
            single = only.items[0]
            return _same(single, answer) if gold_shape else _same(gold, single)
        # An interval may be written as a relation; a list never equals a single thing.
        return bool(only.opening) and len(only.items) == 2 and _verify(gold, answer)
    return _same_leaf(gold, answer)


def _unname(text: str) -> tuple[str, str]:
    r"""A name that a sequence is given, as in `(x,y)=(1,2)` or `x \in [0,1]`, and the sequence."""
    if member := _MEMBER.match(text):
        return "", text[member.end() :]
    named = _NAMED.match(text)
    if named and len(split_top(text)) == 1 and _shape(text[named.end() :]):
        return named[1], text[named.end() :]
    return "", text


def _same_shapes(gold: Shape, answer: Shape) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.opening, answer.opening}
    if kinds <= {"", "\\{"}:
        return _same_unordered(gold.items, answer.items)
    if "\\{" in kinds or kinds == {"", "["}:
        return False
    if "" not in kinds and len(gold.items) == 2:
        # Of two things the brackets tell points and intervals apart; of more, only style.
        if (gold.opening, gold.closing) != (answer.opening, answer.closing):
            return False
    return all(map(_same, gold.items, answer.items))


def _same_unordered(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    left = list(answer)
    for item in gold:
        match = next((i for i, other in enumerate(left) if _same(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True


# --- single things ----------------------------------------------------------------------------


def _same_leaf(gold: str, answer: str) -> bool:
    gold, answer = _before_approximation(gold), _before_approximation(answer)
    words = _words(gold), _words(answer)
    if words[0] or words[1]:
        return (words[0] or _letter(gold)) == (words[1] or _letter(answer))
    times = _time(gold), _time(answer)
    if times[0] and times[1] and (times[0][1] or times[1][1]):
        return times[0][0] == times[1][0] and (
            not (times[0][1] and times[1][1]) or times[0][1] == times[1][1]
        )
    bases = _base(gold), _base(answer)
    if bases[0] or bases[1]:
        (gold_digits, gold_base), (digits, base) = bases[0] or (gold, ""), bases[1] or (answer, "")
        return gold_digits == digits and (gold_base == base or not gold_base or not base)
    return _same_measured(gold, answer)


def _before_approximation(text: str) -> str:
    r"""`1/3 \approx 0.333` gives the exact 1/3; `x \approx 3` means x = 3."""
    first, *rest = re.split(r"\\approx(?![A-Za-z])", text)
    if not rest:
        return text
    first = first.strip()
    if not first:
        return rest[0].strip()
    return f"{first} = {rest[0].strip()}" if re.fullmatch(_NAME, first) else first


def _words(text: str) -> str:
    """The words that a text consists of, folded for comparison; empty if it is mathematics."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    letters = re.fullmatch(r"\(?[A-Za-z][A-Za-z .'\-]*\)?", plain)
    if not letters or not ("\\text" in text or re.search(r"[A-Za-z]{3}", plain)):
        return ""
    return " ".join(re.sub(r"[.()']", "", plain).replace("-", " ").split()).casefold()


def _letter(text: str) -> str:
    """The letter of a multiple-choice answer such as `(C)`, or any text, folded."""
    return text.strip("(). ").casefold()


def _time(text: str) -> tuple[tuple[int, int], str] | None:
    """An hour and a minute, and "a", "p" or nothing for the half of the day."""
    match = _TIME.match(_TEXT.sub(r"\1", text).replace(" ", ""))
    return ((int(match[1]), int(match[2])), (match[3] or "").lower()) if match else None


def _base(text: str) -> tuple[str, str] | None:
    """The digits and the base of a numeral such as `1010_2`."""
    match = _BASE.match(text.replace(" ", ""))
    return (match[1].upper(), _BASE_NAMES.get(match[2], match[2])) if match else None


def _split_unit(text: str) -> tuple[str, str]:
    """A quantity as (number, unit); the unit is empty where there is none."""
    currency = _CURRENCY.match(text)
    if currency:
        return currency["sign"] + text[currency.end() :], currency["unit"].lstrip("\\")
    if text.endswith("%"):
        return text[:-1].rstrip("\\ "), "%"
    if text.endswith("\\$"):
        return text[:-2].strip(), "$"
    for pattern in (_UNIT_TEXT, units.BARE_UNIT, _BARE_NOUN):
        match = pattern.search(text)
        if not match:
            continue
        number = text[: match.start()].strip()
        unit = _TEXT.sub(r"\1", match["unit"]).strip()
        senses = units.SENSE_WORDS.intersection(re.findall(r"[a-z]+", unit.lower()))
        counted = re.search(r"\d|\\pi", number) or units.canonical(unit)
        if number and number[-1] not in "=+-*/^_,(<>" and counted and not senses:
            return number, unit
    if text.endswith("^\\circ") and not _TRIGONOMETRIC.search(text):
        return text.replace("^\\circ", ""), "°"
    return text, ""


def _scaled(number: str, unit: str) -> tuple[str, str]:
    r"""`5`, `million dollars` as `(5)\times 10^{6}`, `dollars`."""
    first, _, rest = unit.partition(" ")
    factor = units.SCALES.get(first.lower().rstrip("s"))
    return (rf"({number})\times {factor}", rest) if factor else (number, unit)


def _same_measured(gold: str, answer: str) -> bool:
    (gold_number, gold_unit), (number, unit) = (
        _scaled(*_split_unit(text)) for text in (gold, answer)
    )
    if (gold_unit == "%") != (unit == "%"):
        return _same_percentage(gold_number, gold_unit, number, unit)
    if units.contradict(gold_unit, unit):
        return False
    if _verify(gold_number, number):
        return True
    if (gold_unit == "°") != (unit == "°"):  # degrees against radians
        turns = rf"\frac{{({gold_number if gold_unit else number})\pi}}{{180}}"
        return _verify(turns, number) if gold_unit else _verify(gold_number, turns)
    return False


def _same_percentage(gold_number: str, gold_unit: str, number: str, unit: str) -> bool:
    """50% is 0.5; and it is 50 where the sign was left to the question, but never 1 or less."""
    name, equals, value = (gold_number if gold_unit == "%" else number).rpartition("=")
    percent = rf"{name}{equals}\frac{{{value}}}{{100}}"
    if _verify(percent, number) if gold_unit == "%" else _verify(gold_number, percent):
        return True
    plain = _value(gold_number.rpartition("=")[2])
    large = isinstance(plain, Rational) and abs(plain) > 1
    other = unit if gold_unit == "%" else gold_unit
    return large and not other and _verify(gold_number, number)


# --- math-verify ------------------------------------------------------------------------------


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
    if not _TRIGONOMETRIC.search(text):
        return text.replace("^\\circ", "")
    return re.sub(r"(\\frac\{\d+\}\{\d+\}|\d+|[A-Za-z])\s*\^\\circ", r"{\\frac{\1\\pi}{180}}", text)


@lru_cache(maxsize=256)
def _parse(text: str) -> Any:
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


def _value(text: str) -> Any:
    parsed = _parse(text)
    try:
        return parsed.doit() if isinstance(parsed, Basic) else parsed
    except Exception:
        return parsed


def _verify(gold: str, answer: str) -> bool:
    gold_parsed, parsed = map(_parse, _case_apart(gold, answer))
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
        value, exact = _value(other), _value(text)
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


def _readable(gold: str) -> bool:
    """Whether every part of a gold can be compared with something."""
    try:
        return _parts_readable(gold)
    except MemoryError:
        raise
    except Exception:
        return False


def _parts_readable(gold: str) -> bool:
    gold = _unname(_bare(gold))[1]
    shape = _shape(gold)
    if shape:
        return all(map(_parts_readable, shape.items))
    leaf = _before_approximation(gold)
    if _words(leaf) or _time(leaf) or _base(leaf):
        return True
    return _parse(_scaled(*_split_unit(leaf))[0]) is not None
