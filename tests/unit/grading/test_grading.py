"""The math grader with real workers: golden pairs, deadlines, threads, grading without a worker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_cli.errors import UsageError
from opsd_cli.grading import Grade, gold_is_matchable, grade_many, mathematics
from opsd_cli.grading.mathematics import MathGrader
from opsd_cli.grading.pool import Pool

DATA = Path(__file__).parents[2] / "data"
ROOT = Path(__file__).parents[3]
#: Shared by the tests of right and wrong, so generous that a busy machine changes no status.
GENEROUS = 3600.0


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(GENEROUS, workers=1) as made:
        yield made


def graded(grader: MathGrader, name: str) -> list[tuple[dict, Grade]]:
    rows = read(name)
    grades = grader.grade_many([(row["gold"], row["prediction"]) for row in rows])
    return list(zip(rows, grades, strict=True))


def test_golden_pairs(grader: MathGrader) -> None:
    found = graded(grader, "grading_pairs.jsonl")
    assert [row["name"] for row, grade in found if grade.correct != row["correct"]] == []


def test_golden_pairs_meant_to_mislead(grader: MathGrader) -> None:
    found = graded(grader, "grading_extra.jsonl")
    assert [row["name"] for row, grade in found if grade.correct > row["correct"]] == []
    assert [row["name"] for row, grade in found if grade.correct < row["correct"]] == []
    stated = [(row["name"], row["status"], grade.status) for row, grade in found if "status" in row]
    assert [case for case in stated if case[1] != case[2]] == []


def test_grading_by_text_agrees_with_the_worker(grader: MathGrader) -> None:
    rows = read("grading_pairs.jsonl") + read("grading_extra.jsonl")
    rows += [
        {"gold": gold, "prediction": prediction}
        for gold in ("0", "-7", "007", "1,234", "12345678901234567890")
        for prediction in ("0", "-0", "+7", "7", "1234", "1,234", "12345678901234567891")
    ]
    settled = []
    for row in rows:
        gold = mathematics.gold_answer(row["gold"])
        answer = mathematics.completion_answer(row["prediction"])
        if gold and answer and (status := mathematics._grade_by_text(gold, answer)):
            settled.append(((gold, answer), status))
    assert len(settled) > 60
    slow = grader._pool.statuses([pair for pair, _ in settled], GENEROUS)
    assert [(pair, status) for pair, status in settled] == [
        (pair, status) for (pair, _), status in zip(settled, slow, strict=True)
    ]


BOMBS = [r"\boxed{9^{9^{9^9}}}", r"\boxed{1000000000!}"]
DEEP = r"\boxed{" + "{" * 500 + "7" + "}" * 500 + "}"
LONG = "and so on, " * 20_000 + r"\boxed{8}"


def test_a_huge_number_ends_at_the_deadline_and_the_next_grade_is_correct(
    grader: MathGrader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grader, "deadline_seconds", 1.0)
    statuses = [grade.status for grade in grader.grade_many([("7", bomb) for bomb in BOMBS])]
    # With gmpy2 a factorial dies of the memory limit instead.
    assert set(statuses) <= {"timeout", "crashed"}
    monkeypatch.undo()
    after = grader.grade_many([(r"\frac{1}{2}", r"\boxed{0.5}"), ("x", r"\boxed{x+1}")])
    assert [grade.status for grade in after] == ["correct", "wrong"]


def test_deeply_nested_and_long_texts_are_graded(grader: MathGrader) -> None:
    deep, long, after = grader.grade_many(
        [("7", DEEP), ("7", LONG), (r"\frac{1}{2}", r"\boxed{0.5}")]
    )
    assert (deep.status, long.status, after.status) == ("correct", "wrong", "correct")
    assert long.answer == "8"


def test_grading_in_another_thread(grader: MathGrader) -> None:
    found: list[Grade] = []
    thread = threading.Thread(
        target=lambda: found.extend(grader.grade_many([("x+1", r"\boxed{1+x}")]))
    )
    thread.start()
    thread.join()
    assert [grade.status for grade in found] == ["correct"]


def test_a_script_without_a_main_guard_works_from_any_directory(tmp_path: Path) -> None:
    # The directory holds a module that the worker must not import in place of the library's, and
    # the package is found only by a changed sys.path.
    (tmp_path / "sympy.py").write_text("raise SystemExit('the wrong sympy')\n")
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.append({str(ROOT)!r})\n"
        "from opsd_cli.grading import grade_many\n"
        "pairs = [(r'\\frac{1}{2}', r'\\boxed{0.5}'), ('x', r'\\boxed{x+1}')]\n"
        "print([grade.status for grade in grade_many(pairs, deadline_seconds=3600)])\n"
        "heavy = {'sympy', 'math_verify', 'numpy', 'pydantic', 'torch'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["['correct', 'wrong']", "[]"]


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise AssertionError("a worker was asked")

    monkeypatch.setattr(Pool, "statuses", refuse)


@pytest.mark.usefixtures("no_worker")
def test_plain_integers_words_and_equal_texts_need_no_worker() -> None:
    pairs = [
        ("42", r"\boxed{42}"),
        ("42", "The answer is 43."),
        ("073", r"\boxed{73}"),
        ("#### 1,234", r"\boxed{1234}"),
        (r"$2\sqrt{3}$", r"\boxed{2\sqrt{3}}"),
        ("mother", r"\boxed{Mothers}"),
        ("mother", r"\boxed{father}"),
        ("42", r"\boxed{42"),
        ("", r"\boxed{42}"),
    ]
    statuses = ["correct", "wrong", "correct", "correct", "correct", "correct", "wrong"]
    statuses += ["no_answer", "unparsable_gold"]
    assert [grade.status for grade in grade_many(pairs)] == statuses


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("gold", "matchable"),
    [
        ("42", True),
        (r"$\frac{1}{2}$", True),
        (r"\{\}", True),
        (r"So $\boxed{3}$.", True),
        ("#### 7", True),
        (r"x \equiv 3 \pmod{7}", True),
        (r"\boxed{", False),
        (r"\boxed{3", False),
        (r"\boxed{}", False),
        ("", False),
        (" \n", False),
        ("$$", False),
        ("...", False),
        (r"\frac{1}{2", False),
        (r"1}{2", False),
        ("<think>7", False),
    ],
)
def test_an_unmatchable_gold_is_found_without_a_worker(gold: str, matchable: bool) -> None:
    assert gold_is_matchable(gold) == matchable


@given(st.integers(), st.integers())
def test_integers_are_graded_by_value(gold: int, answer: int) -> None:
    status = mathematics._grade_by_text(str(gold), f"{answer:+,}")
    assert status == ("correct" if gold == answer else "wrong")


def test_an_integer_of_100000_digits_is_graded() -> None:
    digits = "9" * 100_000
    assert mathematics._grade_by_text(digits, "0" + digits) == "correct"
    assert mathematics._grade_by_text(digits, digits[:-1] + "8") == "wrong"
    assert mathematics._grade_by_text("7", "0" * 200_000 + "x") is None


def test_only_the_status_correct_counts_as_correct() -> None:
    assert Grade("correct", "3").correct
    assert not any(
        Grade(status).correct
        for status in ("wrong", "no_answer", "unparsable_gold", "timeout", "crashed")
    )
    with pytest.raises(AttributeError):
        Grade("correct").status = "wrong"  # type: ignore[misc]


def test_no_pairs_no_grades() -> None:
    assert grade_many([]) == []


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_not_positive_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="deadline"):
        grade_many([("1", "1")], deadline_seconds=seconds)
    with pytest.raises(UsageError, match="deadline"):
        MathGrader(deadline_seconds=seconds)


def test_zero_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="0 grading workers"):
        MathGrader(workers=0)
