r"""Numbers with a unit, a percent sign or a word such as "million"."""

from __future__ import annotations

import re

from sympy import Rational

from opsd_cli.grading import units
from opsd_cli.grading.equality import TRIGONOMETRIC, equal, value_of

_POWER = r"(?:\s*\^\s*\{?\s*-?\d+\s*\}?)?"
_FACTOR = (
    r"(?:\\text\{[^{}]*\}\s*\\Omega|\\text\{[^{}]*\}|\\mu(?![A-Za-z])\s*(?:\\text\{[^{}]*\}|[A-Za-z]+)"
    r"|[kMGmµ]?\s*\\Omega(?![A-Za-z])|[MLR]_\{?\\odot\}?|\\AA(?![A-Za-z]))" + _POWER
)
_JOINT = r"(?:\s|\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[/*.])*"
_FRACTION = re.compile(
    r"(?P<unit>\\frac\{(?P<top>(?:[^{}]|\{[^{}]*\})+)\}\{(?P<bottom>(?:[^{}]|\{[^{}]*\})+)\})$"
)
#: Units set in roman type, or that only a unit can be: `\text{m}\,\text{s}^{-1}`, `\mu m`.
_MARKED = re.compile(rf"(?P<unit>(?:\s*\^\\circ)?\s*{_FACTOR}(?:{_JOINT}{_FACTOR})*)$")
_WORD = r"(?:(?:square|cubic|sq|cu)\.?\s+)?[A-Za-zµÅ]+" + _POWER
#: Units in plain letters. What they are must be known.
_BARE = re.compile(
    rf"(?<=[\d}})\s])\s*(?P<unit>{_WORD}(?:\s*(?:/|\\cdot(?![A-Za-z])|\bper\b|\s)\s*{_WORD})*)$"
)
_NOUN = r"(?=[a-z]*[aeiou])[a-z]{3,}"
_BARE_NOUN = re.compile(rf"(?<=\d)(?P<unit>\s+(?=[a-z]{{4,}}){_NOUN}(?:\s+{_NOUN}){{0,3}})$")
_CURRENCY = re.compile(r"^(?P<sign>-?)\s*(?P<unit>\\\$|[$€£¥₹])\s*")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
#: Single letters that are units where a space parts them from a number.
_LETTERS = frozenset("msgNJWVK")


def split_unit(text: str) -> tuple[str, str]:
    """A quantity as (number, unit); the unit is empty where there is none."""
    currency = _CURRENCY.match(text)
    if currency:
        return currency["sign"] + text[currency.end() :], currency["unit"].lstrip("\\")
    if text[-1:] in units.SIGNS:
        return text[:-1].rstrip("\\ "), text[-1]
    if fraction := _FRACTION.search(text):
        number, unit = text[: fraction.start()].rstrip("\\ "), fraction["unit"]
        quotient = f"({units.plain(fraction['top'])})/({units.plain(fraction['bottom'])})"
        letters = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", number))
        if not letters and units.parse(quotient) and _counted(number, quotient):
            return number, quotient
    if (enclosed := _enclosed(text)) is not None:
        return enclosed
    for pattern in (_MARKED, _BARE, _BARE_NOUN):
        match = pattern.search(text)
        if match is None:
            continue
        number, unit = text[: match.start("unit")].rstrip("\\ "), match["unit"].strip()
        if _counted(number, unit) and (pattern is not _BARE or _bare_unit(text, number, unit)):
            return number, unit
    if text.endswith("^\\circ") and not TRIGONOMETRIC.search(text):
        return text.replace("^\\circ", ""), "°"
    return text, ""


def _enclosed(text: str) -> tuple[str, str] | None:
    r"""`5\ [\text{m/s}]` and `5 (cm)`, where what the brackets hold is a unit."""
    opening = {")": "(", "]": "["}.get(text[-1:])
    start = text.rfind(opening) if opening else -1
    if start <= 0:
        return None
    number, unit = text[:start].rstrip("\\ "), text[start + 1 : -1].strip()
    known = units.parse(units.plain(unit)) and ("\\" in unit or len(unit) > 1)
    return (number, unit) if known and _counted(number, unit) else None


def _counted(number: str, unit: str) -> bool:
    """Whether what stands before a unit can be its number, and the unit keeps the sense."""
    words = re.findall(r"[a-z]+", _TEXT.sub(r" \1 ", unit).lower())
    known = units.parse(units.plain(unit))  # one letter that is none is a variable
    return bool(
        number
        and number.count("{") == number.count("}")
        and number[-1] not in "=+-*/^_,(<>"
        and not units.SENSE_WORDS.intersection(words)
        and ((re.search(r"\d|\\pi", number) and max(map(len, words), default=2) > 1) or known)
    )


def _bare_unit(text: str, number: str, unit: str) -> bool:
    """Whether plain letters are a unit and not variables: `12 cm` and `5 m/s`, not `12m`."""
    if units.parse(units.plain(unit)) is None:
        return False
    names = re.findall(r"[A-Za-zµÅ]+", unit)
    if max(map(len, names)) > 1:
        return len(names) > 1 or not re.search(r"[A-Za-z]$", number)
    if re.search(r"(?<!\\)[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", number)):
        return False
    if len(names) == 1:
        return unit in _LETTERS and text[len(number) :].startswith((" ", "\\"))
    return "/" in unit or "per" in names or "-" in unit


def scaled(number: str, unit: str) -> tuple[str, str]:
    r"""`5`, `\text{million dollars}` as `(5)\times 10^{6}`, `dollars`."""
    first, _, rest = _TEXT.sub(r"\1", unit).strip().partition(" ")
    factor = units.SCALES.get(first.lower().rstrip("s"))
    return (rf"({number})\times {factor}", rest) if factor else (number, unit)


def same_quantity(gold: str, answer: str) -> bool:
    """Whether two numbers, either with a unit or without, are the same."""
    (gold_number, gold_unit), (number, unit) = (scaled(*split_unit(t)) for t in (gold, answer))
    if (gold_unit == "%") != (unit == "%"):
        return _same_percentage(gold_number, gold_unit, number, unit)
    if (gold_unit or unit) and "\\text" not in gold_unit + unit and equal(gold, answer):
        return True  # the letters were variables after all, as in `2mL` and `2Lm`
    if units.contradict(gold_unit, unit):
        return False
    if equal(gold_number, number):
        return True
    if (gold_unit == "°") != (unit == "°"):  # degrees against radians
        turns = _over(rf"({gold_number if gold_unit else number})\pi", "180")
        return equal(turns, number) if gold_unit else equal(gold_number, turns)
    return False


def _over(top: str, bottom: str) -> str:
    return rf"\frac{{{top}}}{{{bottom}}}"


def _same_percentage(gold_number: str, gold_unit: str, number: str, unit: str) -> bool:
    """50% is 0.5; and it is 50 where the sign was left to the question, but never 1 or less."""
    name, equals, value = (gold_number if gold_unit == "%" else number).rpartition("=")
    percent = name + equals + _over(value, "100")
    if equal(percent, number) if gold_unit == "%" else equal(gold_number, percent):
        return True
    plain = value_of(gold_number.rpartition("=")[2])
    large = isinstance(plain, Rational) and abs(plain) > 1
    other = unit if gold_unit == "%" else gold_unit
    return large and not other and equal(gold_number, number)
