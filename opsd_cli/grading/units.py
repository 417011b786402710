r"""Units and other words that follow a number.

A missing unit is accepted, since the question names it. A unit that contradicts the gold's is not:
5 cm does not match 5 m, and 100 cm does not match 1 m, since the question asks for a unit. Only
units in this table can contradict. Other words ("students", "people") have too many synonyms to be
compared and are ignored, unless they change the meaning of the number.

A unit is parsed to a factor and the powers of base units, so that J/s, W and kg m^2 s^-3 are equal.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

#: A factor, and the exponent of each base unit.
Unit = tuple[Fraction, tuple[tuple[str, int], ...]]

#: Symbols that take an SI prefix: symbol -> factor and base units.
_SYMBOLS = {
    "m": "1 m", "g": "1/1000 kg", "s": "1 s", "A": "1 A", "K": "1 K", "mol": "1 mol", "cd": "1 cd",
    "Hz": "1 s-1", "N": "1 kg m s-2", "Pa": "1 kg m-1 s-2", "J": "1 kg m2 s-2",
    "W": "1 kg m2 s-3", "C": "1 A s", "V": "1 kg m2 s-3 A-1", "F": "1 kg-1 m-2 s4 A2",
    "ohm": "1 kg m2 s-3 A-2", "S": "1 kg-1 m-2 s3 A2", "T": "1 kg s-2 A-1", "Wb": "1 kg m2 s-2 A-1",
    "H": "1 kg m2 s-2 A-2", "L": "1/1000 m3", "l": "1/1000 m3", "eV": "1 eV", "pc": "1 pc",
    "bar": "100000 kg m-1 s-2", "cal": "1 cal", "G": "1/10000 kg s-2 A-1", "Bq": "1 s-1",
    "Gy": "1 m2 s-2", "lm": "1 cd", "yr": "12 month", "B": "1 byte", "rad": "1 rad",
}  # fmt: skip
#: Names that take a prefix in words.
_NAMES = {
    "metre": "m", "meter": "m", "gram": "g", "gramme": "g", "gm": "g", "second": "s", "sec": "s",
    "ampere": "A", "amp": "A", "kelvin": "K", "mole": "mol", "candela": "cd", "hertz": "Hz",
    "newton": "N", "pascal": "Pa", "joule": "J", "watt": "W", "coulomb": "C", "volt": "V",
    "farad": "F", "tesla": "T", "henry": "H", "weber": "Wb", "litre": "L", "liter": "L",
    "electronvolt": "eV", "parsec": "pc", "calorie": "cal", "byte": "B", "gauss": "G",
    "radian": "rad", "ohm": "ohm", "becquerel": "Bq", "siemen": "S",
}  # fmt: skip
#: Units that take no prefix; names in lower case, singular.
_OTHERS = {
    "minute min": "60 s", "hour hr h": "3600 s", "day": "86400 s", "week wk": "604800 s",
    "month": "1 month", "year yr": "12 month",
    "inch inche in": "254/10000 m", "foot feet ft": "3048/10000 m", "yard yd": "9144/10000 m",
    "mile mi": "1609344/1000 m", "acre": "1 acre", "hectare ha": "10000 m2",
    "pound lb £": "1 pound", "ounce oz": "1/16 pound", "ton": "1 ton", "tonne": "1000 kg",
    "kilo": "1 kg", "gallon gal": "1 gallon", "quart": "1/4 gallon", "pint": "1/8 gallon",
    "cup": "1/16 gallon", "cc": "1/1000000 m3", "micron": "1/1000000 m",
    "angstrom å aa": "1/10000000000 m", "au": "1 au", "lightyear ly": "1 lightyear",
    "mph": "44704/100000 m s-1", "kph kmph kmh": "5/18 m s-1", "knot": "1 knot",
    "rpm": "1 rpm", "dyne dyn": "1/100000 kg m s-2", "erg": "1/10000000 kg m2 s-2",
    "atm": "101325 kg m-1 s-2", "torr": "1 torr", "psi": "1 psi",
    "arcsecond arcsec": "1 arcsecond", "arcminute arcmin": "60 arcsecond", "sr": "1",
    "degree deg °": "1 degree", "celsiu celsius °c": "1 celsius",
    "fahrenheit °f": "1 fahrenheit", "bit": "1 bit",
    "msun": "1 msun", "lsun": "1 lsun", "rsun": "1 rsun",
    "dollar usd $": "1 dollar", "cent ¢": "1/100 dollar", "euro eur €": "1 euro",
    "rupee rs ₹": "1 rupee", "yen ¥": "1 yen",
    "am a.m": "1 morning", "pm p.m": "1 afternoon", "bc bce": "1 bc", "ad ce": "1 ad",
    "north": "1 north", "south": "1 south", "east": "1 east", "west": "1 west",
    "left": "1 left", "right": "1 right",
    "increase gain profit more": "1 up", "decrease loss less fewer": "1 down",
}  # fmt: skip
_PREFIXES = {
    "f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "m": -3, "c": -2, "d": -1, "h": 2, "k": 3,
    "M": 6, "G": 9, "T": 12,
}  # fmt: skip
_LONG_PREFIXES = {
    "pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3,
    "mega": 6, "giga": 9, "tera": 12,
}  # fmt: skip

#: Units of one character after the number; a currency sign may also stand before it.
SIGNS = frozenset("%$€£¥₹¢")

#: Scale words and their factors.
SCALES = {
    "dozen": "12", "hundred": "100", "thousand": "1000", "million": "10^{6}",
    "billion": "10^{9}", "trillion": "10^{12}",
}  # fmt: skip

#: Words that make the text after a number part of the answer, and not a unit or a comment.
SENSE_WORDS = frozenset(
    """
    no not never or and if when unless for except excluding without false wrong incorrect invalid
    impossible extraneous rejected reject maybe perhaps than least most over under above below about
    only mod modulo base plus minus times divided multiplied squared cubed root half halves third
    thirds quarters fifths sixths eighths tenths hundredths thousandths point twice double triple
    factorial choose
    """.split()  # noqa: SIM905
)

_TOKEN = re.compile(
    r"°\s*[CFcf](?![A-Za-z])|(?:a|p)\.\s*m\.?|[A-Za-zµåÅ$¢€£₹¥°]+|\^?-?\d+|[/()]|[.*·,\s]+"
)
_WORDY = (
    (r"\b(?:square|sq)\.?\s+(\w+)", r"\1^2"),
    (r"\b(?:cubic|cu)\.?\s+(\w+)", r"\1^3"),
    (r"\s+squared\b", "^2"),
    (r"\s+cubed\b", "^3"),
    (r"\bper\b", "/"),
    (r"\bdegrees?\s+(?=[Cc]elsius|[Ff]ahrenheit|[CF]\b)", "°"),
    (r"°\s*[Cc]elsius", "°C"),
    (r"°\s*[Ff]ahrenheit", "°F"),
)


def _base(text: str) -> Unit:
    factor, *powers = text.split()
    found = (re.fullmatch(r"(\D+?)(-?\d+)?", power) for power in powers)
    return Fraction(factor), tuple(sorted((m[1], int(m[2] or 1)) for m in found if m))


_WHOLE = {word: _base(unit) for words, unit in _OTHERS.items() for word in words.split()}


@cache
def _word(word: str) -> Unit | None:
    """The unit of one word or symbol, which may have a prefix; None if it is unknown."""
    if found := _symbol(word):
        return found
    lower = word.lower()
    for name in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if name in _WHOLE:
            return _WHOLE[name]
        if name in _NAMES:
            return _symbol(_NAMES[name])
        for prefix, power in _LONG_PREFIXES.items():
            rest = name.removeprefix(prefix)
            if rest != name and rest in _NAMES:
                return _times(_symbol(_NAMES[rest]), power)
    if len(word) > 1:
        return _symbol(lower) or _symbol(lower.removesuffix("s"))
    return None


def _symbol(word: str) -> Unit | None:
    if word in _SYMBOLS:
        return _base(_SYMBOLS[word])
    if word not in _WHOLE and word[:1] in _PREFIXES and word[1:] in _SYMBOLS:
        return _times(_base(_SYMBOLS[word[1:]]), _PREFIXES[word[0]])
    return None


def _times(unit: Unit | None, power: int) -> Unit | None:
    return (unit[0] * Fraction(10) ** power, unit[1]) if unit else None


@cache
def parse(unit: str) -> Unit | None:
    """Parse a unit such as `kg m/s^2` or `square miles per hour`; None if a word is unknown."""
    for pattern, new in _WORDY:
        unit = re.sub(pattern, new, unit)
    factor, powers = Fraction(1), dict[str, int]()
    sign, in_denominator, last, known = 1, False, None, False
    place = 0
    for match in _TOKEN.finditer(unit):
        if match.start() != place:
            return None
        place, token = match.end(), match[0]
        if token.lstrip("^-").isdigit():
            if last is None:
                return None
            exponent = int(token.lstrip("^")) - 1
            factor *= last[0] ** (exponent * last[2])
            for name, power in last[1]:
                powers[name] = powers.get(name, 0) + power * exponent * last[2]
            last = None
        elif token == "/":
            sign = -1
        elif token == "(":
            in_denominator = sign < 0
        elif token == ")":
            in_denominator, sign, last = False, 1, None
        elif not token.strip(".*·, \t\n") and not token[:1].isalpha():
            continue
        else:
            word = _word(re.sub(r"[\s]|\.$", "", token))
            if word is None:
                return None
            known = True
            factor *= word[0] ** sign
            for name, power in word[1]:
                powers[name] = powers.get(name, 0) + power * sign
            last = (*word, sign)
            sign = sign if in_denominator else 1
    if place != len(unit) or not known:
        return None
    return factor, tuple(sorted((name, power) for name, power in powers.items() if power))


def plain(latex: str) -> str:
    r"""A unit written in LaTeX, as `parse` reads it: `\text{m}\,\mu\text{s}^{-1}` as `m µs^-1`."""
    text = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}(?=\s*\\Omega)", r"\1", latex)
    text = re.sub(r"\\mu(?![A-Za-z])\s*(?:\\text\{([^{}]*)\}|(?=[A-Za-z]))", r"µ\1", text)
    text = re.sub(r"\s*\\Omega(?![A-Za-z])", "ohm", text)
    text = re.sub(r"([MLR])_\{?\\odot\}?", r" \1sun ", text)
    text = re.sub(r"\\(?:AA|mathring\{A\})(?![A-Za-z])", "angstrom", text)
    text = re.sub(r"\s*\^\s*\\circ\s*", "°", text)
    text = re.sub(r"\\(?:cdot|times|quad)(?![A-Za-z])|\\[,;:! ]|~", " ", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\s*\^\s*\{?\s*(-?\d+)\s*\}?", r"^\1", text)
    text = re.sub(r"\s+", " ", text).strip()
    return text[1:-1].strip() if text[:1] + text[-1:] in ("()", "[]") else text


def contradict(gold: str, answer: str) -> bool:
    """True if two units are known and different; an empty or unknown unit contradicts nothing."""
    units = parse(plain(gold)), parse(plain(answer))
    return None not in units and units[0] != units[1]
