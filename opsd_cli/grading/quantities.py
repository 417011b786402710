r"""Quantities: numbers with a unit, a currency or percent sign, or a word such as "million"."""

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
#: Units in roman type, or unmistakable ones: `\text{m}\,\text{s}^{-1}`, `\mu m`.
_MARKED = re.compile(rf"(?P<unit>(?:\s*\^\\circ)?\s*{_FACTOR}(?:{_JOINT}{_FACTOR})*)$")
_WORD = r"(?:(?:square|cubic|sq|cu)\.?\s+)?[A-Za-zµÅ]+" + _POWER
#: Units in plain letters, accepted only if they are in the table of units.
_BARE = re.compile(
    rf"(?<=[\d}})\s])\s*(?P<unit>{_WORD}(?:\s*(?:/|\\cdot(?![A-Za-z])|\bper\b|\s)\s*{_WORD})*)$"
)
_NOUN = r"(?=[a-z]*[aeiou])[a-z]{3,}"
_BARE_NOUN = re.compile(rf"(?<=\d)(?P<unit>\s+(?=[a-z]{{4,}}){_NOUN}(?:\s+{_NOUN}){{0,3}})$")
_CURRENCY = re.compile(r"^(?P<sign>-?)\s*(?P<unit>\\\$|[$€£¥₹])\s*")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
#: Single letters that are units if a space separates them from a number.
_LETTERS = frozenset("msgNJWVK")


def split_unit(text: str) -> tuple[str, str]:
    """Split a quantity into (number, unit); the unit may be empty."""
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
    r"""(number, unit) of a quantity with its unit in brackets, as `5\ [\text{m/s}]`; else None."""
    opening = {")": "(", "]": "["}.get(text[-1:])
    start = text.rfind(opening) if opening else -1
    if start <= 0:
        return None
    number, unit = text[:start].rstrip("\\ "), text[start + 1 : -1].strip()
    known = units.parse(units.plain(unit)) and ("\\" in unit or len(unit) > 1)
    return (number, unit) if known and _counted(number, unit) else None


def _counted(number: str, unit: str) -> bool:
    """True if `number` can be the number of `unit`, and the unit does not change the meaning."""
    words = re.findall(r"[a-z]+", _TEXT.sub(r" \1 ", unit).lower())
    known = units.parse(units.plain(unit))  # a single letter that is not a unit is a variable
    return bool(
        number
        and number.count("{") == number.count("}")
        and number[-1] not in "=+-*/^_,(<>"
        and not units.SENSE_WORDS.intersection(words)
        and ((re.search(r"\d|\\pi", number) and max(map(len, words), default=2) > 1) or known)
    )


def _bare_unit(text: str, number: str, unit: str) -> bool:
    """True if plain letters are a unit and not variables: `12 cm` and `5 m/s`, not `12m`."""
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
    r"""Apply a scale word: `5`, `\text{million dollars}` gives `(5)\times 10^{6}`, `dollars`."""
    first, _, rest = _TEXT.sub(r"\1", unit).strip().partition(" ")
    factor = units.SCALES.get(first.lower().rstrip("s"))
    return (rf"({number})\times {factor}", rest) if factor else (number, unit)


def same_quantity(gold: str, answer: str) -> bool:
    """True if two numbers, each with or without a unit, are the same quantity."""
    (gold_number, gold_unit), (number, unit) = (scaled(*split_unit(t)) for t in (gold, answer))
    if (gold_unit == "%") != (unit == "%"):
        return _same_percentage(gold_number, gold_unit, number, unit)
    if (gold_unit or unit) and "\\text" not in gold_unit + unit and equal(gold, answer):
        return True  # the letters are variables, as in `2mL` and `2Lm`
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
    """50% equals 0.5, and also 50 if the other side has no unit; up to 1 only the former."""
    name, equals, value = (gold_number if gold_unit == "%" else number).rpartition("=")
    percent = name + equals + _over(value, "100")
    if equal(percent, number) if gold_unit == "%" else equal(gold_number, percent):
        return True
    plain = value_of(gold_number.rpartition("=")[2])
    large = isinstance(plain, Rational) and abs(plain) > 1
    other = unit if gold_unit == "%" else gold_unit
    return large and not other and equal(gold_number, number)
