r"""Extraction of the answer from a completion, and of the gold answer from a reference.

The last `\boxed{...}` is the answer. math-verify is not used here, because it merges boxes less
than 70 characters apart into one set. Without each of these rules some completions are misgraded:

* Only the text after the last `</think>` is searched, and an unclosed `<think>` hides everything
  after it: a box within the thinking is an intermediate guess.
* Braces must balance, not counting escaped ones (`\{`, `\}`). If the *last* box is cut off by the
  token limit there is no answer, even if an earlier box is complete: the model was replacing it.
* A box within a box is part of the outer one.
* If the gold is a list, adjacent boxes form one answer: see `boxed_together`.
* Without a box, an answer is only accepted in an unambiguous form: GSM8K's `#### 18`, a last line
  such as "**Final Answer:** 4", Minerva's "The final answer is $4$. I hope it is correct.", or a
  text of one short line that is not a sentence.

All functions are linear in the length of the text, since they run in the process of the caller and
without a deadline.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])(?P<open>\s*\{)?|\\.|[{}]", re.DOTALL)
#: `\boxed 32`, where TeX would box only the 3.
_BARE_BOX = re.compile(r"\s+([-+]?[0-9][0-9,./]*(?<![,.]))")

#: Adjacent boxes: maximum number of characters between them, ignored typesetting, allowed text.
_MAX_JOINT_LENGTH = 80
_TYPESETTING = re.compile(
    r"\\(?:[()\[\],;: ]|quad|qquad|text\s*\{|left|right|\\)|[$*&{}\s]", re.IGNORECASE
)
_JOINT = re.compile(
    r"(?:\s|,|;|and\b|or\b|as\s+well\s+as\b|[-•]\s|\(?\w{1,4}[.)]|\(|\)"
    r"|\\?[A-Za-z]+(?:_\w+)?\s*(?:\(\w+\)\s*)?(?:=|:))*"
)

_HASHES = re.compile(r"^\s*####[ \t]*(\S.*)$")
_MARKER = re.compile(r"(?i)^.*\banswers?[\s*_]*(?:\bis\b|\bare\b|:|=)[\s*_:]*(?P<rest>.*)$")
#: The final sentence of Minerva's few-shot examples, anywhere in a line.
_MINERVA = re.compile(
    r"(?i)final answer is:?[ \t]*(?P<rest>\S(?:[^\n]*\S)?)[ \t]*\.?[ \t]*I hope it is correct"
)
_HEADING = re.compile(r"(?i)^[\s#*_]*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?[\s*_]*:?[\s*_]*$")
#: In characters. A longer line is not a heading, and only its end is searched for an answer,
#: because the patterns above take time quadratic in the spaces of a line.
_MAX_LINE_LENGTH = 400
#: An unmarked answer of more characters or words is taken for a sentence.
_MAX_BARE_LENGTH = 120
_MAX_WORDS = 3
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}`.

    Returns:
        The stripped content, possibly empty; None if there is no box or the last is cut off.
    """
    boxes = _boxes(text)
    return boxes[-1][2] if boxes else None


def boxed_together(completion: str) -> str | None:
    r"""The contents of the last adjacent boxes of a completion, joined with commas.

    Boxes are adjacent if there is only "and", "or", commas, names and list markers between them, as
    in `$x = \boxed{3}$ or $x = \boxed{5}$`.

    Returns:
        None if fewer than two boxes are adjacent.
    """
    text = after_thinking(completion)
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
    if len(between) > _MAX_JOINT_LENGTH:
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


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; an unclosed `<think>` hides everything after it."""
    text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


def _marked(text: str) -> str | None:
    """The answer in the last line, marked as such there or by a heading in the line before."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if minerva := _minerva_answer(lines):
        return minerva
    hashes = _HASHES.match(lines[-1])
    if hashes and clean_line(hashes[1]):
        return clean_line(hashes[1])
    marker = _MARKER.search(lines[-1][-_MAX_LINE_LENGTH:])
    if marker and clean_line(marker["rest"]):
        return clean_line(marker["rest"])
    if len(lines) > 1 and len(lines[-2]) <= _MAX_LINE_LENGTH and _HEADING.match(lines[-2]):
        return clean_line(lines[-1]) or None
    return None


def _minerva_answer(lines: list[str]) -> str | None:
    for line in reversed(lines):
        if "I hope it is correct" in line and (found := _MINERVA.search(line[-_MAX_LINE_LENGTH:])):
            return clean_line(found["rest"]) or None
    return None


def clean_line(line: str) -> str:
    """A line without Markdown emphasis and the final full stop."""
    return line.strip().strip("*_`").rstrip(".").strip().strip("*_`").strip()


def sentence_answer(text: str) -> str | None:
    """The answer that the last line of a text marks as such, as in "The answer is 12."."""
    return _marked(after_thinking(text))


def marks_answer(text: str) -> bool:
    """True if a text ends with an answer in a box, or marked as in a completion."""
    text = after_thinking(text)
    return bool(last_boxed(text) or _marked(text))


def stated_answer(completion: str) -> str | None:
    """The answer that a completion boxes or marks as such; None without one."""
    text = after_thinking(completion)
    if "\\boxed" in text or "\\fbox" in text:
        return last_boxed(text) or None
    return _marked(text)


def completion_answer(completion: str) -> str | None:
    """The answer of a completion as the model wrote it, or None."""
    text = after_thinking(completion)
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed or None
    if "\\boxed" in text or "\\fbox" in text:
        return None
    marked = _marked(text)
    if marked is not None:
        return marked
    line = text.strip()
    if len(line) > _MAX_BARE_LENGTH or "\n" in line or len(_WORD.findall(line)) > _MAX_WORDS:
        return None
    return clean_line(line) or None


def gold_answer(gold: str) -> str | None:
    """The gold answer in a reference: a bare answer, or a worked solution that marks its answer.

    Returns:
        None for an empty reference, or one whose last box is empty or cut off.
    """
    text = after_thinking(gold)
    if "\\boxed" in text or "\\fbox" in text:
        return last_boxed(text) or None
    return _marked(text) or text.strip() or None
