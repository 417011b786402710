"""Units and other words that follow a number.

A unit left out is forgiven, since the question names it; a unit that contradicts the gold's is not:
5 cm is no answer to 5 m. Only words in this table can contradict. Others ("students", "people") say
the same thing in too many ways to be compared, so they are ignored, unless they turn the sense.
"""

from __future__ import annotations

import re
from functools import cache

#: canonical name -> spellings, in lower case, singular
_SPELLINGS = {
    "metre": "m metre meter", "centimetre": "cm centimetre centimeter",
    "millimetre": "mm millimetre millimeter", "kilometre": "km kilometre kilometer",
    "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard", "mile": "mi mile",
    "gram": "g gm gram gramme", "kilogram": "kg kilogram kilo", "milligram": "mg milligram",
    "pound": "lb £ pound", "ounce": "oz ounce", "ton": "ton tonne",
    "litre": "l litre liter", "millilitre": "ml millilitre milliliter",
    "gallon": "gal gallon", "quart": "quart", "pint": "pint", "cup": "cup", "acre": "acre",
    "second": "s sec second", "minute": "min minute", "hour": "h hr hour",
    "day": "day", "week": "week", "month": "month", "year": "yr year",
    "dollar": "$ usd dollar", "cent": "¢ cent", "euro": "€ eur euro", "rupee": "₹ rs rupee",
    "degree": "° deg degree", "celsius": "°c celsiu", "fahrenheit": "°f fahrenheit",
    "radian": "rad radian", "newton": "n newton", "joule": "j joule", "watt": "w watt",
    "volt": "v volt", "hertz": "hz hertz", "kelvin": "k kelvin", "mole": "mol mole",
    "morning": "am a.m a.m.", "afternoon": "pm p.m p.m.", "bc": "bc bce", "ad": "ad ce",
    "north": "north", "south": "south", "east": "east", "west": "west",
    "left": "left", "right": "right",
    "up": "increase gain profit more", "down": "decrease loss less fewer",
}  # fmt: skip
_CANONICAL = {
    spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()
}
_CANONICAL |= {"mph": "mile / hour", "kph": "kilometre / hour", "kmph": "kilometre / hour"}

#: Units that are one sign and stand behind the number; money may stand before it as well.
SIGNS = frozenset("%$€£¥₹¢")

#: Words that multiply. A dozen aside they are powers of ten.
SCALES = {
    "dozen": "12", "hundred": "100", "thousand": "1000", "million": "10^{6}",
    "billion": "10^{9}", "trillion": "10^{12}",
}  # fmt: skip

#: With one of these the words are part of the answer, not its unit.
SENSE_WORDS = frozenset(
    [
        "no", "not", "never", "or", "and", "if", "when", "unless", "for", "except", "false",
        "wrong", "incorrect", "than", "least", "most", "over", "under", "above", "below", "about",
        "only", "mod", "modulo",
    ]
)  # fmt: skip

#: Bare unit names that can follow a number without \text: two letters or more, else a variable.
_BARE = "|".join(
    sorted((re.escape(s) for s in _CANONICAL if len(s) > 1 and s.isalpha()), key=len, reverse=True)
)
BARE_UNIT = re.compile(
    rf"(?<=[\d}})\s])\s*(?P<unit>(?:(?:square|cubic|sq|cu)\s+)?(?:{_BARE})(?:s|es)?"
    rf"(?:\^\{{?[23]\}}?)?(?:\s*(?:/|per)\s*(?:{_BARE}|[smhlg])s?(?:\^\{{?[23]\}}?)?)?)$",
    re.IGNORECASE,
)

_TOKEN = re.compile(r"°[cf]\b|[a-z$¢€£₹°]+(?:\.[a-z]\b\.?)?|-?\d+|/")


@cache
def canonical(unit: str) -> tuple[str, ...] | None:
    """The unit with every word by its canonical name; None if a word is not in the table."""
    text = unit.lower()
    text = re.sub(r"\s*\^\\circ\s*", "°", text)
    text = re.sub(r"\b(?:square|sq)\.?\s+(\w+)", r"\1 2", text)
    text = re.sub(r"\b(?:cubic|cu)\.?\s+(\w+)", r"\1 3", text)
    text = re.sub(r"\bsquared\b", "2", text)
    text = re.sub(r"\bcubed\b", "3", text)
    text = re.sub(r"\bper\b", "/", text)
    text = re.sub(r"\bdegrees?\s+(?=celsius|fahrenheit|[cf]\b)", "°", text)
    text = text.replace("°celsius", "°c").replace("°fahrenheit", "°f")
    words: list[str] = []
    for token in _TOKEN.findall(text):
        if token == "/" or token.lstrip("-").isdigit():
            words.append(token)
            continue
        name = _CANONICAL.get(token) or _CANONICAL.get(token.removesuffix("s"))
        if name is None:
            return None
        words += name.split()
    return tuple(words) or None


def contradict(gold: str, answer: str) -> bool:
    """Whether two units cannot mean the same; an empty or unknown unit contradicts nothing."""
    names = canonical(gold), canonical(answer)
    return None not in names and names[0] != names[1]
