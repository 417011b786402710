r"""Normalisation: one notation for equal mathematics, before anything is parsed.

math-verify misreads many notations silently: `1\,000` as 1*0, `½` and `\langle` not at all,
`\frac123` as 1/23, `1 2` as 3, `10\frac{3}{2}` as 23/2. Both sides are therefore rewritten to LaTeX
that it reads correctly. Every rule is valid for all texts that it matches; none depends on a
particular answer. The rules run only within a worker, which can be killed, and evaluate nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

from opsd_cli.grading import units

_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-", "\N{NO-BREAK SPACE}": " ", "\N{THIN SPACE}": " ",
        "\N{NARROW NO-BREAK SPACE}": " ", "\N{ZERO WIDTH SPACE}": "", "\N{WORD JOINER}": "",
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ",
        "∓": r"\mp ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
        "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
        "°": r"^\circ ", "′": "'", "’": "'", "“": '"', "”": '"', "⟨": r"\langle ",
        "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
        "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
        "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ", "Ω": r"\Omega ", "Å": r"\AA ",
        "\N{OHM SIGN}": r"\Omega ", "\N{ANGSTROM SIGN}": r"\AA ", "\N{MICRO SIGN}": r"\mu ", 
        "ℏ": r"\hbar ", "σ": r"\sigma ",
        "δ": r"\delta ", "ρ": r"\rho ", "τ": r"\tau ", "Δ": r"\Delta ", "≡": r"\equiv ",
        "ε": r"\epsilon ", "μ": r"\mu ",
        "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}",
        "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}",
        "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}",
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width ASCII
    }
)  # fmt: skip
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₋"
_DIGITS = "0123456789-"

#: Functions and Greek letters that are often written without a backslash.
_PLAIN_NAMES = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|alpha|beta|gamma|"
    "delta|epsilon|theta|lambda|sigma|omega|phi|psi"
)

_SIMPLE: tuple[tuple[str, str], ...] = (
    (r"\\(?:(?:display|text|script)style|(?:no)?limits|centering|checkmark)(?![A-Za-z])", ""),
    (r"\\(?:left|right|middle)\s*\.", ""),
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
    (r"\\[dtc]frac(?![A-Za-z])|\\(?:nice|s|flat)frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "),
    (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "),
    (r"\\neq(?![A-Za-z])", r"\\ne "),
    (r"\\(?:langle|lparen)(?![A-Za-z])", "("),
    (r"\\(?:rangle|rparen)(?![A-Za-z])", ")"),
    (r"\\log\s*_\s*(?:\{\s*e\s*\}|e(?![A-Za-z]))", r"\\ln "),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\lbrack(?![A-Za-z])", "["),
    (r"\\rbrack(?![A-Za-z])", "]"),
    (r"\\[lr]vert(?![A-Za-z])", "|"),
    (r"\\colon(?![A-Za-z])", ":"),
    (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset"),
    (r"\\(?:simeq|approxeq|thickapprox)(?![A-Za-z])", r"\\approx "),
    (r"\{\s*\}(?=\s*\^\s*(?:\{\s*)?\\circ)", ""),
    (r"\\degree(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])", r"^\\circ "),
    (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"(?<=\d)(?:\{,\}|,\s*\\!)\s*(?=\d{3}(?!\d))", ""),
    (r"\{,\}", ","),
    (r"\{:\}", ":"),
    (r"(?<!\\)\\!", ""),
    (r"\*\*", "^"),
    (r"(?<=\d)\.(?=\s*(?:[-+*/^)}]|\\(?:cdot|times|pi|sqrt)(?![A-Za-z])))", ""),
    (r"\\pmod\s*(?![\s{])(\\?\w+)", r"\\pmod{\1}"),
    (
        r"\(?\s*(?:\\(?:text|mathrm)\{\s*\(?\s*mod\s*\}|\\b?mod(?![A-Za-z]))\s*\{?(\w+)\}?\s*\)",
        r"\\pmod{\1}",
    ),
    (r"(?:\\text\{)?\(\s*mod(?![A-Za-z])\s*(\w+)\s*\)\}?", r"\\pmod{\1}"),
    (rf"(?<![A-Za-z\\])({_PLAIN_NAMES})(?![A-Za-z])", r"\\\1 "),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\+/-", r"\\pm "),
    (r"(?<=\d)\s*(?:percent|pct)(?![A-Za-z])", r"\\%"),
    (r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
    (r"\\(?:quad|qquad|enspace|thinspace|space)(?![A-Za-z])|~", " "),
    (r"\\[hv]space\*?\{[^{}]*\}", " "),
)  # fmt: skip
_RULES = tuple((re.compile(pattern), new) for pattern, new in _SIMPLE)

_TEXT = (
    r"\\(?:text(?:bf|it|rm|tt|sf|sc|normal|up)?|emph|[mh]box|mathrm|mathsf|mathtt|operatorname\*?)"
)
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "log",
        "ln",
        "exp",
        "gcd",
        "lcm",
    ]
)
_WRAPPERS = r"\\(?:boxed|fbox|mathbf|mathit|boldsymbol|bm|pmb|underline|ensuremath|mathord)"
_SPACED_GROUPS = re.compile(
    r"(?<![\d.,])([1-9]\d{0,2})((?:(?:(?<!\\)\\[,;: ]|[ ])\s*\d{3})+)(?!\d|\s*/)"
)
_COMMA_GROUPS = r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])"
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\))"
)
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")
_MIXED = re.compile(r"(?<![\w.^}\)\]!/|])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}(?!\s*[\^!\d])")
_MIXED_SLASH = re.compile(r"(?<![\w.^}\)\]!/|])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w.^!])")
_BRACED = re.compile(r"(?P<before>[^{}()\[\]]*)\\\{(?P<members>(?:[^\\]|\\[^}])*)\\\}$")
_CONJUNCTION = re.compile(r"\s*,?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s*")
_SEPARATOR_IN_TEXT = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|,(?!\d{3}))\s*")
_MATHS_IN_TEXT = re.compile(r"[-+\d.,/:=()\s]*\d[-+\d.,/:=()\s]*")


def normalise(text: str) -> str:
    r"""An answer in the notation that the comparison expects.

    The result has no `$`, no spacing commands and no size commands; every kind of text is `\text`;
    arguments of `\frac`, `\binom` and `\sqrt` are in braces; numbers have no thousands separators;
    mixed numbers and repeating decimals are fractions; `\pm` is a list of both; "and" and "or"
    are commas.
    """
    text = _scripts(text, _SUPERSCRIPTS, "^")
    text = _scripts(text, _SUBSCRIPTS, "_")
    text = re.sub(r"(?<![A-Za-z])(?:np|numpy|math|sympy)\.(?=[a-z])", "", text)
    text = _roots(text.translate(_CHARACTERS))
    text = _delimiters(text)
    for pattern, new in _RULES:
        text = pattern.sub(new, text)
    text = re.sub(r"\{\s*\\rm\s+([^{}]*)\}", r"\\mathrm{\1}", text)
    text = _rewrite(text, _WRAPPERS, " {} ".format)
    text = re.sub(r"\\(?:textcolor|color)\{[^{}]*\}", "", text)
    text = _rewrite(text, _TEXT, _text)
    text = re.sub(r",(?:\s*,)+", ",", _CONJUNCTION.sub(", ", text))
    text = _SPACED_GROUPS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = re.sub(r"(?<!\\)\\[,;:> ]", " ", text)
    text = _join_thousands(text)
    text = _REPEATING.sub(_repeating, text)
    text = _SCIENTIFIC.sub(lambda m: rf"{m[1]}\times 10^{{{int(m[2])}}}", text)
    text = _arguments(text)
    text = _MIXED_SLASH.sub(_mixed, text)
    text = _MIXED.sub(_mixed, text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;\\ ")
    if "\\pmod" not in text:
        text = re.sub(r"\\equiv(?![A-Za-z])", "=", text)
    return ", ".join(_plus_minus(item) for item in split_top_level(text))


def split_top_level(text: str, separators: str = ",;") -> list[str]:
    """Split a text at the separators that are outside all brackets and environments."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\begin(?![A-Za-z])|\\end(?![A-Za-z])|\\[{}]|\\.|.", text):
        token = match.group()
        if token in ("\\begin", "\\{", "{", "(", "["):
            depth += 1
        elif token in ("\\end", "\\}", "}", ")", "]"):
            depth -= 1
        elif depth == 0 and token in separators:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return parts


def closing_index(text: str, start: int, opening: str = "{", closing: str = "}") -> int | None:
    """Index of the bracket that closes the one at `start`, ignoring escapes, or None."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += (text[i] == opening) - (text[i] == closing)
        if depth == 0:
            return i
        i += 1
    return None


def _scripts(text: str, characters: str, mark: str) -> str:
    table = str.maketrans(characters, _DIGITS)
    return re.sub(f"[{characters}]+", lambda m: f"{mark}{{{m[0].translate(table)}}}", text)


def _roots(text: str) -> str:
    r"""`√2`, `√(x+1)`, `sqrt(3)` as `\sqrt{...}`."""
    text = re.sub(r"√\s*(\d+(?:\.\d+)?|[A-Za-z]|\\[A-Za-z]+)", r"\\sqrt{\1}", text)
    text = text.replace("√", r"\sqrt")
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*(?=[({\d])", r"\\sqrt", text)
    out, i = "", 0
    for match in re.finditer(r"\\sqrt\s*\(", text):
        if match.start() < i:
            continue
        end = closing_index(text, match.end() - 1, "(", ")")
        if end is not None:
            out += text[i : match.start()] + rf"\sqrt{{{_roots(text[match.end() : end])}}}"
            i = end + 1
    return out + text[i:]


def _delimiters(text: str) -> str:
    """The text without math delimiters and Markdown emphasis."""
    text = re.sub(r"(?<!\\)\\[()\[\]]|`|\*\*(?=\S[^*]*\*\*)|(?<=\S)\*\*(?=\s*$)", " ", text.strip())
    text = text.strip()
    if text.startswith("$") and text.count("$") == 1:
        text = "\\" + text  # an amount of money, not a math delimiter
    return re.sub(r"(?<!\\)\$", " ", text).strip()


def _rewrite(text: str, command: str, change: Callable[[str], str]) -> str:
    """The text with every `command{inner}` replaced by change(inner), innermost first."""
    out, i = "", 0
    for match in re.finditer(rf"{command}\s*(?=\{{)", text):
        if match.start() < i:
            continue
        end = closing_index(text, match.end())
        if end is None:
            break
        out += text[i : match.start()] + change(
            _rewrite(text[match.end() + 1 : end], command, change)
        )
        i = end + 1
    return out + text[i:]


def _text(inner: str) -> str:
    r"""Replace `\text{inner}` by plain mathematics, a list, or `\text` with words or a unit."""
    inner = re.sub(r"(?<!\\)\\[,;: ]", " ", inner)
    inner = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", inner)
    plain = inner.strip()
    if re.search(r"[\\^]", plain):
        unit = units.plain(plain)
        if units.parse(unit):
            return rf" \text{{{unit}}}"
    if not plain or plain in (",", ";", ":", "."):
        return inner
    if (
        _MATHS_IN_TEXT.fullmatch(plain)
        or plain in ("e", "i", "d", "\\$", "%", "\\%")
        or "\\" in plain
    ):
        return f" {plain} "
    if plain in ("percent", "pct"):
        return r"\%"
    if plain in _FUNCTIONS:
        return f"\\{plain} "
    parts = _SEPARATOR_IN_TEXT.split(plain)
    if len(parts) > 1:
        return ", ".join(_text(part) for part in parts)
    number = re.match(r"([-+]?\d[\d,]*(?:\.\d+)?)\s+(?=[A-Za-z])", plain)
    if number:
        return rf" {number[1]} \text{{{plain[number.end() :]}}}"
    return rf"\text{{{plain}}}"


def _join_thousands(text: str) -> str:
    """Join numbers such as 1,234, except within brackets, where a comma separates items."""
    depth = 0

    def join(match: re.Match[str]) -> str:
        nonlocal depth
        token = match[0]
        depth += (token in ("(", "[", "\\{")) - (token in (")", "]", "\\}"))
        return token.replace(",", "") if depth <= 0 and token[0].isdigit() else token

    return re.sub(rf"\\[{{}}]|[()\[\]]|{_COMMA_GROUPS}", join, text)


def _repeating(match: re.Match[str]) -> str:
    whole, fixed = match[1] or "0", match[2]
    period = match[3] or match[4] or match[5]
    value = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{value}}}{{{'9' * len(period) + '0' * len(fixed)}}}"


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = int(match[1]), int(match[2]), int(match[3])
    if 0 < top < bottom:
        return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}"
    return rf"{whole}\cdot \frac{{{top}}}{{{bottom}}}"


def _arguments(text: str) -> str:
    r"""Put the arguments of `\frac12`, `\frac 1{2}`, `\sqrt2` in braces, by the rules of TeX."""
    out, i = "", 0
    for match in re.finditer(r"\\(?P<name>frac|binom|sqrt)(?![A-Za-z])", text):
        if match.start() < i:
            continue
        end, pieces = match.end(), [match.group()]
        if match["name"] == "sqrt" and (index := re.match(r"\s*\[[^\[\]]*\]", text[end:])):
            pieces.append(index.group().strip())
            end += index.end()
        for _ in range(1 if match["name"] == "sqrt" else 2):
            token = re.match(r"\s*(?:\{|\\[A-Za-z]+|[^\s\\{}])", text[end:])
            if token is None:
                break
            if token.group().endswith("{"):
                close = closing_index(text, end + token.end() - 1)
                if close is None:
                    break
                pieces.append(f"{{{_arguments(text[end + token.end() : close])}}}")
                end = close + 1
            else:
                pieces.append(f"{{{token.group().strip()}}}")
                end += token.end()
        out += text[i : match.start()] + "".join(pieces)
        i = end
    return out + text[i:]


def _plus_minus(item: str) -> str:
    r"""All sign combinations of an item, as a list; with `\mp` the signs depend on each other."""
    if braced := _BRACED.match(item):
        members = ", ".join(_plus_minus(member) for member in split_top_level(braced["members"]))
        return rf"{braced['before']}\{{{members}\}}"
    marks = re.findall(r"\\(?:pm|mp)(?![A-Za-z])", item)
    if not marks or len(marks) > 3:
        return item
    tied = "\\mp" in marks
    choices = [(s,) * len(marks) for s in "+-"] if tied else list(product("+-", repeat=len(marks)))
    alternatives = []
    for signs in choices:
        alternative = item
        for mark, sign in zip(marks, signs, strict=True):
            chosen = sign if mark == "\\pm" else "-" if sign == "+" else "+"
            alternative = re.sub(r"\\(?:pm|mp)(?![A-Za-z])", chosen, alternative, count=1)
        alternatives.append(re.sub(r"(^|[=(,\[{])\s*\+", r"\1", alternative))
    return ", ".join(alternatives)
