r"""Whether an answer is the gold's. Runs within a worker only: it loads sympy, and may hang.

The order: the same text; the same shape with the same members; for single things words as words
(math-verify multiplies letters: `\text{tea}` would equal `eat`), times, numerals with a base (it
drops the base), ratios, then a number with a unit, and only what is left as mathematics.
"""

from __future__ import annotations

import re
from typing import Literal

from opsd_cli.grading.annotations import choice, without_remarks
from opsd_cli.grading.equality import equal, read
from opsd_cli.grading.identifiers import key
from opsd_cli.grading.normalise import normalise, split_top
from opsd_cli.grading.quantities import same_quantity, scaled, split_unit
from opsd_cli.grading.structure import (
    NAME,
    Shape,
    bare,
    compact,
    shape_of,
    unname,
    vector_of,
    without_domains,
)

_BASE = re.compile(r"^\(?([0-9][0-9A-Fa-f]*)\)?_\{?(?:\\text\{)?\s*(\d+|[a-z]+)\s*\}*$")
_BASENAMES = {"two": "2", "three": "3", "eight": "8", "ten": "10", "sixteen": "16"}
_TIME = re.compile(r"^(\d{1,2}):(\d{2})([ap])?\.?(?:m\.?)?$", re.IGNORECASE)
_CONGRUENCE = re.compile(
    r"^(?:(?P<name>[^=]*?)\s*(?:\\equiv(?![A-Za-z])|=)\s*)?(?P<residue>.+?)\s*\\pmod\{(?P<modulus>[^{}]+)\}$"
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\s+(?=\w)", re.IGNORECASE)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
Verdict = Literal["correct", "wrong", "no_answer", "unparsable_gold"]


def compare(gold: str, answer: str) -> Verdict:
    """Compares an answer with the gold, both as extracted, not yet normalised.

    An answer that is the gold's very text is correct even if nobody can parse it; a gold that
    cannot be read is reported only where it failed to match.
    """
    if compact(gold) == compact(answer):
        return "correct"
    try:
        gold = without_remarks(without_domains(normalise(gold)))
        if not gold:
            return "unparsable_gold"
        answer = without_remarks(without_domains(normalise(answer)))
        if not answer:
            return "no_answer"
        if _same_choice(gold, answer):
            return "correct"
    except MemoryError:
        raise
    except Exception:  # too deep, too long, or mathematics that sympy trips over
        pass
    return "wrong" if _readable(gold) else "unparsable_gold"


def _same_choice(gold: str, answer: str) -> bool:
    """Whether two answers are the same where one is a choice such as `(B) 27`.

    Against a gold without a letter it is 27, and a gold `(B) 27` takes B and 27. A gold that is
    nothing but a letter takes the letter alone: whether 27 is what B stood for nobody can tell.
    """
    (gold_label, gold_rest), (label, rest) = choice(gold), choice(answer)
    if not (gold_label and gold_rest) and not (label and rest):
        return _same(gold, answer)
    if gold_label and label:
        return gold_label == label and bool(gold_rest) and (not rest or _same(gold_rest, rest))
    return not (gold_label and not gold_rest) and _same(gold_rest or gold, rest or answer)


def _same(gold: str, answer: str) -> bool:
    gold, answer = bare(gold), bare(answer)
    if compact(gold) == compact(answer):
        return True
    (gold_name, gold), (name, answer) = unname(gold, answer), unname(answer, gold)
    if gold_name and name and key(gold_name) != key(name):
        return False
    shapes = shape_of(gold), shape_of(answer)
    vectors = vector_of(gold), vector_of(answer)
    for vector, shape in (vectors[0], shapes[1]), (vectors[1], shapes[0]):
        if vector and shape:
            # [1, 2] may be an interval if the gold, but what else if the gold is a vector?
            point = shape.opening in ("(", "") or shape is shapes[1] or len(vector) > 2
            items = vector if shape is shapes[1] else shape.items
            others = shape.items if shape is shapes[1] else vector
            alike = point and shape.opening != "\\{" and len(items) == len(others)
            return alike and all(map(_same, items, others))
    if shapes[0] and shapes[1]:
        return _same_shapes(shapes[0], shapes[1])
    for shape, other in ((shapes[0], answer), (shapes[1], gold)):
        if shape is None:
            continue
        if shape.opening == "\\{" and len(shape.items) == 1:
            return _same(*((shape.items[0], other) if other is answer else (other, shape.items[0])))
        if not shape.opening and "\\cup" in other:  # x < 1 or x > 2, written as a union
            return _same_unordered(shape.items, tuple(re.split(r"\s*\\cup(?![A-Za-z])\s*", other)))
        # An interval may be written as a relation; a list never equals a single thing.
        return bool(shape.opening) and len(shape.items) == 2 and equal(gold, answer)
    return _same_single(gold, answer)


def _same_shapes(gold: Shape, answer: Shape) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.opening, answer.opening}
    if kinds <= {"", "\\{"}:
        return _same_unordered(gold.items, answer.items)
    if "\\{" in kinds or kinds == {"", "["}:
        return False
    same_brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    if "" not in kinds and len(gold.items) == 2 and not same_brackets:
        return False  # of two things the brackets tell points from intervals; of more, only style
    return all(map(_same, gold.items, answer.items))


def _same_unordered(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    left = list(answer)
    for item in gold:
        match = next((i for i, other in enumerate(left) if _same(item, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _same_single(gold: str, answer: str) -> bool:
    gold, answer = _before_approximation(gold), _before_approximation(answer)
    words = _words(gold), _words(answer)
    if words[0] or words[1]:
        return (words[0] or _folded(gold)) == (words[1] or _folded(answer))
    times = _time(gold), _time(answer)
    if times[0] and times[1] and (times[0][1] or times[1][1]):
        return times[0][0] == times[1][0] and (
            not (times[0][1] and times[1][1]) or times[0][1] == times[1][1]
        )
    bases = _base(gold), _base(answer)
    if bases[0] or bases[1]:
        (gold_digits, gold_base), (digits, base) = bases[0] or (gold, ""), bases[1] or (answer, "")
        return gold_digits == digits and (gold_base == base or not gold_base or not base)
    residues = _residue(gold), _residue(answer)
    if residues[0] or residues[1]:
        return bool(residues[0] and residues[1]) and _same_residues(*residues)  # type: ignore[arg-type]
    terms = split_top(gold, ":"), split_top(answer, ":")
    if max(map(len, terms)) > 2:
        return len(terms[0]) == len(terms[1]) and all(
            equal(_over(term, terms[0][0]), _over(other, terms[1][0]))
            for term, other in zip(*terms, strict=True)
        )
    return same_quantity(gold, answer)


def _residue(text: str) -> tuple[str, str, str] | None:
    r"""The name, the residue and the modulus of `x \equiv 3 \pmod{7}`."""
    match = _CONGRUENCE.match(text)
    return (key(match["name"] or ""), match["residue"].strip(), match["modulus"]) if match else None


def _same_residues(gold: tuple[str, str, str], answer: tuple[str, str, str]) -> bool:
    if not equal(gold[2], answer[2]) or (gold[0] and answer[0] and gold[0] != answer[0]):
        return False
    if re.fullmatch(r"-?\d{1,18}", gold[1]) and re.fullmatch(r"-?\d{1,18}", answer[1]):
        modulus = int(gold[2]) if re.fullmatch(r"[1-9]\d{0,18}", gold[2]) else 0
        if modulus:
            return (int(gold[1]) - int(answer[1])) % modulus == 0
    return equal(gold[1], answer[1])


def _over(top: str, bottom: str) -> str:
    return rf"\frac{{{top}}}{{{bottom}}}"


def _before_approximation(text: str) -> str:
    r"""`1/3 \approx 0.333` gives the exact 1/3; `x \approx 3` means x = 3."""
    first, *rest = re.split(r"\\approx(?![A-Za-z])", text)
    if not rest:
        return text
    first = first.strip()
    if not first:
        return rest[0].strip()
    return f"{first} = {rest[0].strip()}" if re.fullmatch(NAME, first) else first


def _words(text: str) -> str:
    """The words that a text consists of, folded for comparison; empty if it is mathematics."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    letters = re.fullmatch(r"\(?[A-Za-z][A-Za-z .'\-]*\)?", plain)
    dated = not _TEXT.sub("", text).strip() and re.match(r"[A-Za-z]{3}", plain)  # "June 20"
    if (letters and ("\\text" in text or re.search(r"[A-Za-z]{3}", plain))) or dated:
        return _folded(plain)
    return ""


def _folded(text: str) -> str:
    """Words, or the letter of a multiple-choice answer such as `(C)`, without case and plural."""
    words = re.sub(r"[.,()']", "", _ARTICLES.sub("", text)).replace("-", " ").casefold().split()
    return " ".join(word.removesuffix("s") for word in words)


def _time(text: str) -> tuple[tuple[int, int], str] | None:
    """An hour and a minute, and "a", "p" or nothing for the half of the day."""
    match = _TIME.match(_TEXT.sub(r"\1", text).replace(" ", ""))
    return ((int(match[1]), int(match[2])), (match[3] or "").lower()) if match else None


def _base(text: str) -> tuple[str, str] | None:
    """The digits and the base of a numeral such as `1010_2`."""
    match = _BASE.match(text.replace(" ", ""))
    return (match[1].upper(), _BASENAMES.get(match[2], match[2])) if match else None


def _readable(gold: str) -> bool:
    """Whether every part of a gold can be compared with something."""
    try:
        return _parts_readable(gold)
    except MemoryError:
        raise
    except Exception:
        return False


def _parts_readable(gold: str) -> bool:
    gold = unname(bare(choice(gold)[1] or gold), "")[1]
    shape = shape_of(gold)
    if shape:
        return all(map(_parts_readable, shape.items))
    gold = _before_approximation(gold)
    if _words(gold) or _time(gold) or _base(gold) or _residue(gold):
        return True
    return read(scaled(*split_unit(gold))[0]) is not None
