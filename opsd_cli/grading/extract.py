r"""Which part of a text is the answer.

The last `\boxed{...}` counts, found here and not by math-verify, which merges boxes less than 70
characters apart into one set. The rules, each because its opposite grades something wrong:

* Only what follows the last `</think>` is read, and a `<think>` that is never closed hides all that
  follows it: boxes met while thinking are guesses, not answers.
* Braces must balance, escaped ones (`\{`, `\}`) aside. If the *last* box is cut off by the token
  limit there is no answer, even where an earlier box is whole: the model was replacing it.
* A box within a box is part of the outer one.
* Where the gold is a list, boxes that belong together are one answer: see `boxed_together`.
* Without any box an answer counts only where it cannot be mistaken: GSM8K's `#### 18`, a last line
  such as "**Final Answer:** 4", Minerva's "The final answer is $4$. I hope it is correct.", or a
  text that is one short line and no sentence.

Everything here is linear in the length of the text, since it runs where nothing can kill it.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])(?P<open>\s*\{)?|\\.|[{}]", re.DOTALL)
#: `\boxed 32`: not what TeX would box, but what its writer meant.
_BARE_BOX = re.compile(r"\s+([-+]?[0-9][0-9,./]*(?<![,.]))")

#: What may stand between boxes that give one answer together, and what is only typesetting.
_LONGEST_JOINT = 80
_TYPESETTING = re.compile(
    r"\\(?:[()\[\],;: ]|quad|qquad|text\s*\{|left|right|\\)|[$*&{}\s]", re.IGNORECASE
)
_JOINT = re.compile(
    r"(?:\s|,|;|and\b|or\b|as\s+well\s+as\b|[-•]\s|\(?\w{1,4}[.)]|\(|\)"
    r"|\\?[A-Za-z]+(?:_\w+)?\s*(?:\(\w+\)\s*)?(?:=|:))*"
)

_HASHES = re.compile(r"^\s*####[ \t]*(\S.*)$")
_MARKER = re.compile(r"(?i)^.*\banswers?[\s*_]*(?:\bis\b|\bare\b|:|=)[\s*_:]*(?P<rest>.*)$")
#: How Minerva's few-shot examples end, wherever in the text.
_HOPED = re.compile(
    r"(?i)final answer is:?[ \t]*(?P<rest>\S(?:[^\n]*\S)?)[ \t]*\.?[ \t]*I hope it is correct"
)
_HEADING = re.compile(r"(?i)^[\s#*_]*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?[\s*_]*:?[\s*_]*$")
#: A line longer than this is no heading, and only its end can announce an answer. The patterns
#: above would take time quadratic in its spaces.
_LONGEST_LINE = 400
#: A bare answer longer than this, or of more words, is a sentence.
_LONGEST_BARE = 120
_MOST_WORDS = 3
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}`.

    Returns:
        The content, stripped, possibly empty; None where there is no box or the last is cut off.
    """
    boxes = _boxes(text)
    return boxes[-1][2] if boxes else None


def boxed_together(completion: str) -> str | None:
    r"""The contents of the boxes that end a completion, with commas between them.

    Boxes belong together where nothing but "and", commas, names and the marks of lists stands
    between them, as in `$x = \boxed{3}$ or $x = \boxed{5}$`.

    Returns:
        None where fewer than two boxes belong together.
    """
    text = _after_thinking(completion)
    contents: list[str] = []
    after: int | None = None
    for start, end, content in reversed(_boxes(text)):
        if after is not None and not _joins(text[end:after]):
            break
        if content not in contents:
            contents.append(content)
        after = start
    return ", ".join(reversed(contents)) if len(contents) > 1 and all(contents) else None


def _joins(between: str) -> bool:
    if len(between) > _LONGEST_JOINT:
        return False
    return bool(_JOINT.fullmatch(_TYPESETTING.sub(" ", between)))


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """The outermost boxes as (start, end, content), in order; empty if the last is cut off."""
    # A stack of open braces: the index of the box that a brace opens, or None for other braces.
    stack: list[int | None] = []
    starts: list[tuple[int, int]] = []
    ends: list[int | None] = []
    bare: tuple[int, int, str] | None = None
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match["open"]:
            stack.append(len(starts))
            starts.append((match.start(), match.end()))
            ends.append(None)
        elif token.startswith(("\\boxed", "\\fbox")):
            if number := _BARE_BOX.match(text, match.end()):
                bare = (match.start(), number.end(), number[1])
        elif token == "{":
            stack.append(None)
        elif token == "}" and stack:
            box = stack.pop()
            if box is not None:
                ends[box] = match.start()
    if bare and (not starts or bare[0] > starts[-1][0]):
        return [bare]
    if not starts or ends[-1] is None:
        return []
    found: list[tuple[int, int, str]] = []
    for (start, inside), end in zip(starts, ends, strict=True):
        if end is not None and (not found or inside > found[-1][1]):
            found.append((start, end + 1, text[inside:end].strip()))
    return found


def _after_thinking(text: str) -> str:
    text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


def _marked(text: str) -> str | None:
    """The answer that the last line announces, or that stands below a heading announcing it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if hoped := _hoped(lines):
        return hoped
    hashes = _HASHES.match(lines[-1])
    if hashes and _clean(hashes[1]):
        return _clean(hashes[1])
    marker = _MARKER.search(lines[-1][-_LONGEST_LINE:])
    if marker and _clean(marker["rest"]):
        return _clean(marker["rest"])
    if len(lines) > 1 and len(lines[-2]) <= _LONGEST_LINE and _HEADING.match(lines[-2]):
        return _clean(lines[-1]) or None
    return None


def _hoped(lines: list[str]) -> str | None:
    for line in reversed(lines):
        if "I hope it is correct" in line and (hoped := _HOPED.search(line[-_LONGEST_LINE:])):
            return _clean(hoped["rest"]) or None
    return None


def _clean(line: str) -> str:
    """A line without Markdown emphasis and its full stop."""
    return line.strip().strip("*_`").rstrip(".").strip().strip("*_`").strip()


def completion_answer(completion: str) -> str | None:
    """The answer a completion gives, as the model wrote it, or None."""
    text = _after_thinking(completion)
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed or None
    if "\\boxed" in text or "\\fbox" in text:
        return None
    marked = _marked(text)
    if marked is not None:
        return marked
    line = text.strip()
    if len(line) > _LONGEST_BARE or "\n" in line or len(_WORD.findall(line)) > _MOST_WORDS:
        return None
    return _clean(line) or None


def gold_answer(gold: str) -> str | None:
    """The reference answer within a gold, which may be bare or the end of a worked solution.

    Returns:
        None where there is none: an empty gold, or one whose last box is empty or cut off.
    """
    text = _after_thinking(gold)
    if "\\boxed" in text or "\\fbox" in text:
        return last_boxed(text) or None
    return _marked(text) or text.strip() or None
