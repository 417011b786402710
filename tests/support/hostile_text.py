"""Strings that have broken programs, for data, file names and completions."""

from __future__ import annotations

import random

#: Terminal control sequences: colour, cursor, title, link, an unfinished command, C1 forms.
CONTROL = (
    "\x1b[31mred", "\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\link",
    "\x1b]52;c;cGF3bmVk", "\x1bPq#0;2;0;0;0", "\x9b31m", "\x9d0;title\x9c", "\x90open", "a\rb",
    "bell\x07", "back\x08\x08", "\x7f", "\x0b\x0c", "\x85next", "\x00nul", "\x1b", "\x1b(0lqqk",
)  # fmt: skip
#: Characters that reorder or hide text.
BIDI = ("\u202eevil\u202c", "\u2066a\u2069", "\u2067b\u2069", "\u202dc", "sep\u2028line\u2029")
#: Rich markup and emoji codes, and formatting of Click or Typer.
MARKUP = (
    "1:100:2", "[bold red]x[/bold red]", "[/]", "[link=http://x]y[/link]", ":smile:", "a:b:c :+1:",
    "[on red]", "\\[escaped]", "%s %d {0} {question}", "[1, 2]", "[[", "]]",
)  # fmt: skip
#: Rare but harmless text that must come out unchanged.
PLAIN = (
    "two\nlines", "a\tb", "  padded  ", "漢字かな", "עברית", "العربية", "é", "e\u0301", "👩‍👩‍👧",
    "$\\frac{1}{2}$", "\\boxed{7}", "\\boxed{", "#### 18", "<think>", "</think>", "", " ",
    "NaN", "1e999", "-0", "0.50", "073", "9" * 400, "x" * 5000, "null", "None", "true", "'\"`;--",
)  # fmt: skip
SURROGATES = ("\ud800", "x\udcff", "\udfff\ud800")


def text(rng: random.Random, surrogates: bool = False) -> str:
    """One to three of the strings, joined."""
    pools: list[tuple[str, ...]] = [CONTROL, BIDI, MARKUP, PLAIN]
    if surrogates:
        pools.append(SURROGATES)
    return "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 3)))
