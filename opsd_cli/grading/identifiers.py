r"""Identifiers of a normalised text, each marked as one variable for the parser.

The parser reads `E_1` as an invalid power of ten and `\gamma` as Euler's constant, drops the prime
of `x'` and the exponent of `2^T`, evaluates `\frac{dx}{dt}` to 0 and does not know `\hbar`,
`\aleph_0` or `m_{\max}`. Every identifier (a letter with its accent, subscript and primes; a Greek
letter; a derivative; a function applied to a plain argument) therefore becomes `\variable{...}`,
which the parser leaves unchanged. Two identifiers are the same if they differ only in braces,
spaces and fonts.
"""

from __future__ import annotations

import re

#: Commands that the parser knows. All others without an argument are identifiers.
_COMMANDS = frozenset(
    """
    frac sqrt binom cdot times div pm mp le ge ne lt gt approx infty pi sin cos tan cot sec csc
    arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch log ln exp max min gcd
    lcm sum prod int lim to rightarrow lfloor rfloor lceil rceil cup cap setminus in notin emptyset
    subset subseteq supset circ bmod mod det mid ldots dots cdots partial forall
    """.split()  # noqa: SIM905 - a list would be 60 lines long
)
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_ACCENTED = (
    r"\\(?:dot|ddot|hat|widehat|vec|bar|overline|tilde|widetilde|overrightarrow|mathcal|mathbf|"
    r"mathfrak|mathscr|mathbb)\s*(?:\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z])"
)
_MARK = r"(?:\\prime|\\ast|\\star|\\dagger|['*])"
_SCRIPTS = (
    rf"(?P<scripts>(?:\s*_\s*(?:{_GROUP}|\\text\{{[^{{}}]*\}}|\\[A-Za-z]+|\w)|\s*'+"
    rf"|\s*\^\s*(?:\{{\s*(?:{_MARK}\s*|[-+])+\}}|{_MARK}(?![A-Za-z])))*)"
)
_IDENTIFIER = re.compile(
    r"(?P<kept>\\(?:begin|end|variable)\s*\{[^{}]*\}|\\[^A-Za-z])"
    rf"|(?P<base>{_ACCENTED}|\\text\s*\{{[^{{}}]*\}}|\\[A-Za-z]+|[A-Za-z])"
)
_SCRIPTED = re.compile(_SCRIPTS)
_SETS = re.compile(r"\\mathbb\s*\{?\s*[RZNQC]\s*\}?")
_OF = r"[^{}]*(?:\{[^{}]*\}[^{}]*)*"
_DERIVATIVE = re.compile(
    rf"\\frac\s*\{{\s*(?P<d>d|\\partial)\s*(?:\^\s*\{{?\s*(?P<n>\d+)\s*\}}?)?\s*(?P<of>{_OF}?)\s*\}}"
    r"\s*\{\s*(?P=d)\s*(?P<by>[^{}^]+?)\s*(?:\^\s*\{?\s*(?P=n)\s*\}?)?\s*\}"
)
_QUOTIENT = re.compile(
    r"(?<![A-Za-z\\}])d\s*(?P<of>[A-Za-z]|\\[A-Za-z]+)\s*/\s*d\s*(?P<by>[A-Za-z]|\\[A-Za-z]+)"
    r"(?![A-Za-z])"
)
_SCRIPT = r"(?:_\s*(?:\w|\{[^{}]*\}))?"
_PLAIN = rf"\s*-?(?:\d+(?:\.\d+)?|\\frac\{{\d+\}}\{{\d+\}}|\\?[A-Za-z]+{_SCRIPT})\s*"
_APPLIED = re.compile(rf"\s*(?:\^\{{?-1\}}?)?\s*\({_PLAIN}(?:,{_PLAIN})*\)")
#: f, g and h are applied to any argument, other letters only to plain ones: `k(k+1)` is a product.
_FUNCTION = re.compile(r"\s*(?:\^\{?-1\}?)?\s*\([^()]*\)")
_BOUND = re.compile(
    r"\\(?:sum|prod|lim)\s*_\s*\{\s*(?P<letter>\\?[A-Za-z]+)|\\int.*?(?<![A-Za-z\\])d(?P<by>[A-Za-z])"
)
_CROSSED = re.compile(r"\\(?:nabla|vec|hat|overrightarrow)(?![A-Za-z]).*\\times(?!\s*\d)")
_INDEXED = re.compile(r"_\s*(?:i(?![A-Za-z])|\{[^{}]*(?<![A-Za-z\\])i(?![A-Za-z]))")


def identifier_key(name: str) -> str:
    r"""The canonical form of an identifier, equal for `m_{\text{max}}`, `m_\max` and `m_{max }`."""
    name = re.sub(r"\\(?:text|mathrm|mathbf|left|right)(?![A-Za-z])|[\s{}]", "", name)
    name = re.sub(r"\^?\\prime|\^'", "'", name)
    name = re.sub(r"\\(?:wide(?=hat|tilde)|var)?([A-Za-z]+)", r"\1", name)
    return name.replace("overrightarrow", "vec").replace("overline", "bar")


def uses_index_i(text: str) -> bool:
    """True if i is used as an index, as in `x_i`, and so is not the imaginary unit."""
    return bool(_INDEXED.search(text))


def mark_identifiers(text: str, imaginary: bool) -> str:
    r"""A normalised text with its identifiers as `\variable{...}`, and i as the parser's `I`.

    Args:
        imaginary: whether a letter i that stands alone is the imaginary unit.

    Raises:
        ValueError: an identifier contains a letter that a sum, an integral or a limit binds, and
            would become a constant; a cross product; or a prime that the parser would drop.
    """
    if _CROSSED.search(text):
        raise ValueError("a cross product, which the parser takes for a product")
    differential = "\\int" in text
    bound = {m["letter"] or m["by"] for m in _BOUND.finditer(text)}
    text = _DERIVATIVE.sub(_derivative, text)
    text = _QUOTIENT.sub(_derivative, text)
    out, place = [], 0
    while match := _IDENTIFIER.search(text, place):
        out.append(text[place : match.start()])
        place = match.end()
        base = match["base"]
        command = base[1:] if base and re.fullmatch(r"\\[A-Za-z]+", base) else ""
        if (
            base is None
            or command in _COMMANDS
            or (_SETS.fullmatch(base) and text[place : place + 1] != "^")
        ):
            out.append(match[0])
            continue
        scripts = _SCRIPTED.match(text, place)  # matches nothing at worst
        name = base + (scripts["scripts"] if scripts else "")
        place = match.start() + len(name)
        applied = (_FUNCTION if base in "fgh" else _APPLIED).match(text, place)
        if applied and base != "e":
            name += applied[0]
            place = applied.end()
        if len(name) > len(base) and bound.intersection(re.findall(r"\\?[A-Za-z]+", name)):
            raise ValueError(f"{name} changes with {bound}")
        if name == "i" and imaginary:
            out.append("I")
        elif len(name) > 1 or name in "EIiT" or (name == "d" and not differential):
            out.append(_variable(name))
        else:
            out.append(name)
    marked = "".join(out) + text[place:]
    if "'" in marked:
        raise ValueError("a prime on what has no name, which the parser drops")
    return marked


def _variable(name: str) -> str:
    return rf"\variable{{{_encoded(identifier_key(name))}}}"


def _encoded(name: str) -> str:
    """An injective encoding of a name in ASCII letters and digits."""
    return "v" + re.sub(r"[^A-Ya-z0-9]", lambda m: f"Z{ord(m[0]):x}Z", name)


def _derivative(match: re.Match[str]) -> str:
    found = match.groupdict()
    kind = "d" if found.get("d", "d") == "d" else "partial"
    return _variable(f"{kind}{found.get('n') or 1}[{match['of']}]by[{match['by']}]")
