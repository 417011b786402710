r"""Equivalence of an answer and the gold. Only workers run this: it loads sympy and may hang.

The comparison goes from the cheapest to the most expensive: the same text; the same structure with
equivalent members; then, for single values, words as words (math-verify multiplies letters:
`\text{tea}` would equal `eat`), times of day, numerals with a base (it drops the base),
congruences, ratios, quantities with a unit, and only the rest as mathematics.
"""

from __future__ import annotations

import re
from typing import Literal

from opsd_cli.grading.annotations import split_choice_label, strip_annotations
from opsd_cli.grading.equality import equal, parse_latex
from opsd_cli.grading.identifiers import identifier_key
from opsd_cli.grading.normalise import normalise, split_top_level
from opsd_cli.grading.quantities import same_quantity, scaled, split_unit
from opsd_cli.grading.structure import (
    NAME,
    Structure,
    split_name,
    strip_domains,
    strip_grouping,
    structure_of,
    vector_entries,
    without_spaces,
)
from opsd_cli.grading.words import folded

_BASE = re.compile(r"^\(?([0-9][0-9A-Fa-f]*)\)?_\{?(?:\\text\{)?\s*(\d+|[a-z]+)\s*\}*$")
_BASENAMES = {"two": "2", "three": "3", "eight": "8", "ten": "10", "sixteen": "16"}
_TIME = re.compile(r"^(\d{1,2}):(\d{2})([ap])?\.?(?:m\.?)?$", re.IGNORECASE)
_CONGRUENCE = re.compile(
    r"^(?:(?P<name>[^=]*?)\s*(?:\\equiv(?![A-Za-z])|=)\s*)?(?P<residue>.+?)\s*\\pmod\{(?P<modulus>[^{}]+)\}$"
)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
Verdict = Literal["correct", "wrong", "no_answer", "unparsable_gold"]


def compare(gold: str, answer: str) -> Verdict:
    """The verdict on an answer, given the gold; both as extracted, not yet normalised.

    An answer with the same text as the gold is correct even if it cannot be parsed. A gold that
    cannot be parsed gives `unparsable_gold` only if the answer did not match it.
    """
    if without_spaces(gold) == without_spaces(answer):
        return "correct"
    try:
        gold = strip_annotations(strip_domains(normalise(gold)))
        if not gold:
            return "unparsable_gold"
        answer = strip_annotations(strip_domains(normalise(answer)))
        if not answer:
            return "no_answer"
        if _same_choice(gold, answer):
            return "correct"
    except MemoryError:
        raise
    except Exception:  # nested too deeply, too long, or an error within sympy
        pass
    return "wrong" if _readable(gold) else "unparsable_gold"


def _same_choice(gold: str, answer: str) -> bool:
    """Equivalence of two answers, either of which may be a multiple choice such as `(B) 27`.

    Compared with a gold without a letter, `(B) 27` is 27. A gold `(B) 27` accepts B and 27. A gold
    that is only a letter accepts only the letter: which value it stands for is not known.
    """
    (gold_label, gold_rest), (label, rest) = split_choice_label(gold), split_choice_label(answer)
    if not (gold_label and gold_rest) and not (label and rest):
        return _same(gold, answer)
    if gold_label and label:
        return gold_label == label and bool(gold_rest) and (not rest or _same(gold_rest, rest))
    return not (gold_label and not gold_rest) and _same(gold_rest or gold, rest or answer)


def _same(gold: str, answer: str) -> bool:
    gold, answer = strip_grouping(gold), strip_grouping(answer)
    if without_spaces(gold) == without_spaces(answer):
        return True
    (gold_name, gold), (name, answer) = split_name(gold, answer), split_name(answer, gold)
    if gold_name and name and identifier_key(gold_name) != identifier_key(name):
        return False
    structures = structure_of(gold), structure_of(answer)
    vectors = vector_entries(gold), vector_entries(answer)
    for vector, structure in (vectors[0], structures[1]), (vectors[1], structures[0]):
        if vector and structure:
            # An answer [1, 2] to a gold vector is a vector; a gold [1, 2] may be an interval.
            is_point = (
                structure.opening in ("(", "") or structure is structures[1] or len(vector) > 2
            )
            items = vector if structure is structures[1] else structure.items
            others = structure.items if structure is structures[1] else vector
            alike = is_point and structure.opening != "\\{" and len(items) == len(others)
            return alike and all(map(_same, items, others))
    if structures[0] and structures[1]:
        return _same_structures(structures[0], structures[1])
    for structure, other in ((structures[0], answer), (structures[1], gold)):
        if structure is None:
            continue
        if structure.opening == "\\{" and len(structure.items) == 1:
            return _same(
                *((structure.items[0], other) if other is answer else (other, structure.items[0]))
            )
        if not structure.opening and "\\cup" in other:  # x < 1 or x > 2 as a union of intervals
            return _same_unordered(
                structure.items, tuple(re.split(r"\s*\\cup(?![A-Za-z])\s*", other))
            )
        # An interval may be written as a relation; a list never equals a single value.
        return bool(structure.opening) and len(structure.items) == 2 and equal(gold, answer)
    return _same_single_value(gold, answer)


def _same_structures(gold: Structure, answer: Structure) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.opening, answer.opening}
    if kinds <= {"", "\\{"}:
        return _same_unordered(gold.items, answer.items)
    if "\\{" in kinds or kinds == {"", "["}:
        return False
    same_brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    if "" not in kinds and len(gold.items) == 2 and not same_brackets:
        return False  # with two items the brackets tell a point from an interval
    return all(map(_same, gold.items, answer.items))


def _same_unordered(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    left = list(answer)
    for item in gold:
        match = next((i for i, other in enumerate(left) if _same(item, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _same_single_value(gold: str, answer: str) -> bool:
    gold, answer = _before_approximation(gold), _before_approximation(answer)
    words = _words(gold), _words(answer)
    if words[0] or words[1]:
        return (words[0] or folded(gold)) == (words[1] or folded(answer))
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
    terms = split_top_level(gold, ":"), split_top_level(answer, ":")
    if max(map(len, terms)) > 2:
        return len(terms[0]) == len(terms[1]) and all(
            equal(_over(term, terms[0][0]), _over(other, terms[1][0]))
            for term, other in zip(*terms, strict=True)
        )
    return same_quantity(gold, answer)


def _residue(text: str) -> tuple[str, str, str] | None:
    r"""Name, residue and modulus of a congruence `x \equiv 3 \pmod{7}`, or None."""
    match = _CONGRUENCE.match(text)
    return (
        (identifier_key(match["name"] or ""), match["residue"].strip(), match["modulus"])
        if match
        else None
    )


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
    r"""The exact side of an approximation: 1/3 of `1/3 \approx 0.333`; `x \approx 3` is x = 3."""
    first, *rest = re.split(r"\\approx(?![A-Za-z])", text)
    if not rest:
        return text
    first = first.strip()
    if not first:
        return rest[0].strip()
    return f"{first} = {rest[0].strip()}" if re.fullmatch(NAME, first) else first


def _words(text: str) -> str:
    """The words of a text that is only words, case-folded; empty if it is mathematics."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    letters = re.fullmatch(r"\(?[A-Za-z][A-Za-z .'\-]*\)?", plain)
    dated = not _TEXT.sub("", text).strip() and re.match(r"[A-Za-z]{3}", plain)  # "June 20"
    if (letters and ("\\text" in text or re.search(r"[A-Za-z]{3}", plain))) or dated:
        return folded(plain)
    return ""


def _time(text: str) -> tuple[tuple[int, int], str] | None:
    """((hour, minute), half): the half of the day is "a", "p" or "". None if not a time."""
    match = _TIME.match(_TEXT.sub(r"\1", text).replace(" ", ""))
    return ((int(match[1]), int(match[2])), (match[3] or "").lower()) if match else None


def _base(text: str) -> tuple[str, str] | None:
    """Digits and base of a numeral such as `1010_2`, or None."""
    match = _BASE.match(text.replace(" ", ""))
    return (match[1].upper(), _BASENAMES.get(match[2], match[2])) if match else None


def _readable(gold: str) -> bool:
    """True if every part of a gold can be parsed or is compared without parsing."""
    try:
        return _parts_readable(gold)
    except MemoryError:
        raise
    except Exception:
        return False


def _parts_readable(gold: str) -> bool:
    gold = split_name(strip_grouping(split_choice_label(gold)[1] or gold), "")[1]
    structure = structure_of(gold)
    if structure:
        return all(map(_parts_readable, structure.items))
    gold = _before_approximation(gold)
    if _words(gold) or _time(gold) or _base(gold) or _residue(gold):
        return True
    return parse_latex(scaled(*split_unit(gold))[0]) is not None
