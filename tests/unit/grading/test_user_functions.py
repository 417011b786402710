"""Functions of the user as graders: what they may return, and every way in which they fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.errors import ConfigError
from opsd_cli.grading import (
    Grade,
    GradedProblem,
    Grader,
    Item,
    check_grader,
    described,
    open_grader,
)
from opsd_cli.grading.judgements import NotAGrade, reply_of
from tests.support.processes import gone
from tests.support.user_graders import write_rules

PROBLEM = GradedProblem("7", "Say A.", "A", fields={"rule": "be short"})
LONG = 3600.0


@pytest.fixture
def said() -> list[str]:
    """What the grader warned of."""
    return []


@pytest.fixture
def grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Iterator[Grader]:
    write_rules(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = Grading(grader="rules.py:score", deadline_seconds=LONG)
    with open_grader(settings, said.append) as made:
        yield made


def graded(grader: Grader, *completions: str) -> list[Grade]:
    return grader.grade([Item(PROBLEM, completion) for completion in completions])


def test_a_truth_value_is_a_verdict_without_a_number(grader: Grader) -> None:
    assert graded(grader, "A", "B") == [Grade("correct"), Grade("wrong")]
    assert not any(grade.numeric for grade in graded(grader, "A", "B"))


def test_a_number_is_the_score_and_correct_from_pass_at_on(
    grader: Grader, tmp_path: Path, said: list[str]
) -> None:
    half, pair = graded(grader, "half", "pair")
    assert half == Grade("wrong", None, 0.5) and half.numeric
    assert pair == Grade("wrong", None, 0.75, "too long")
    lower = Grading(grader="rules.py:score", deadline_seconds=LONG, pass_at=0.6)
    with open_grader(lower, said.append) as other:
        assert [grade.correct for grade in graded(other, "half", "pair")] == [False, True]
    assert not said


def test_a_mapping_gives_score_answer_and_feedback(grader: Grader) -> None:
    assert graded(grader, "mapping") == [Grade("correct", "A", None, "be short")]


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("raise", r"rules\.py, line 8: ZeroDivisionError: division by zero"),
        ("sys.exit", r"rules\.py, line \d+: SystemExit: enough"),
        ("exit", "its process ended"),
        ("nan", r"rules\.py, line 4: score gave nan, which is neither true or false nor a number"),
        ("none", r"rules\.py, line 4: score gave None"),
        ("two", r"score gave 2, "),
        ("text", r"score gave 'right', "),
        ("three", "score gave 3 values"),
        ("key", "gave a mapping with the key 'reward'; the keys are score, feedback, answer"),
    ],
)
def test_a_failing_function_is_a_crash_of_that_completion_and_one_warning(
    grader: Grader, said: list[str], completion: str, reason: str
) -> None:
    import re

    before, crash, again, after = graded(grader, "A", completion, completion, "A")
    assert before.correct and after.correct
    assert crash == again == Grade("crashed") and crash.ungraded
    [warning] = said
    assert re.search(reason, warning) and "rules.py:score" in warning and "'7'" in warning
    grader.__exit__(None, None, None)
    assert "2 of 4 completions" in said[1] and "crashed 2" in said[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_function_out_of_memory_is_a_crash_with_the_key_that_bounds_it(
    grader: Grader, said: list[str]
) -> None:
    assert [grade.status for grade in graded(grader, "memory", "A")] == ["crashed", "correct"]
    assert "out of memory (grading.memory_gb allows 2)" in said[0]


def test_a_function_that_hangs_is_a_timeout_and_a_later_completion_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    write_rules(tmp_path)
    monkeypatch.chdir(tmp_path)
    with open_grader(Grading(grader="rules.py:score", deadline_seconds=1), said.append) as grader:
        assert graded(grader, "hang") == [Grade("timeout")]
    assert "grading.deadline_seconds=1" in said[0]


def test_what_a_function_prints_is_no_reply(grader: Grader) -> None:
    assert [grade.status for grade in graded(grader, "print", "A", "print")] == [
        "wrong", "correct", "wrong",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_of_the_worker_gives_no_second_reply(grader: Grader) -> None:
    found = graded(grader, *["fork", "A", "B"] * 4)
    assert [grade.status for grade in found] == ["wrong", "correct", "wrong"] * 4


def test_a_child_that_a_function_leaves_behind_ends_with_the_worker(grader: Grader) -> None:
    [grade] = graded(grader, "child")
    grader.__exit__(None, None, None)
    assert grade.answer is not None and gone(int(grade.answer))


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("nosuch.py:score", "there is no file", "relative to the working directory"),
        (
            "rules.py:nosuch",
            "rules.py has no function 'nosuch'",
            "score, str_of_child, one_argument",
        ),
        ("rules.py:NOT_A_FUNCTION", "is not a function", "def NOT_A_FUNCTION(problem, completion)"),
        ("rules.py:one_argument", "cannot be called with a problem and a completion", "def one_ar"),
        ("no_such_module.at_all:f", "there is no module 'no_such_module.at_all'", "FILE.py:"),
        ("rules.py:awaited", "is declared with `async def`", "def awaited(problem, completion)"),
        ("broken.py:f", "broken.py, line 2: SyntaxError", "mend it"),
        ("raising.py:f", "raising.py, line 1: ZeroDivisionError", "mend it"),
        ("needy.py:f", "No module named 'a_package_that_nobody_has'", "install what it imports"),
        ("leaving.py:f", "leaving.py, line 1: SystemExit", "mend it"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str, hint: str
) -> None:
    write_rules(tmp_path)
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    (tmp_path / "needy.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_grader(Grading(grader=target))
    assert message in caught.value.message and hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_function_of_a_module_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rules(tmp_path)
    (tmp_path / "json.py").write_text("1 / 0\n")  # hides no module of the standard library
    monkeypatch.chdir(tmp_path)
    with open_grader(Grading(grader="rules:score", deadline_seconds=LONG)) as grader:
        assert graded(grader, "half") == [Grade("wrong", None, 0.5)]


def test_the_description_of_a_function_has_the_digest_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rules(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = Grading(grader="rules.py:score")
    before = described(settings)
    assert before["grader"] == "rules.py:score" and before["grading"]["pass_at"] == 1
    path.write_text(path.read_text() + "# changed\n")
    assert described(settings)["grading"]["files"] != before["grading"]["files"]
    assert described(Grading()) == {"grader": "math"}


@pytest.mark.parametrize("value", ["a \ud800 half", "x" * 20_000])
def test_feedback_is_text_that_a_log_can_hold(value: str) -> None:
    feedback = reply_of((0, value), 1.0)["feedback"]
    assert len(feedback) <= 10_000 and json.dumps(feedback, ensure_ascii=False).encode()


@pytest.mark.parametrize("value", [True, 0, 1, 0.25, (0.5, None), {"score": 1.0}])
def test_values_that_are_grades(value: object) -> None:
    assert reply_of(value, 1.0)["status"] in ("correct", "wrong")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("inf"), [], (), {}, (1, 2), {"score": "1"}])
def test_values_that_are_no_grades(value: object) -> None:
    with pytest.raises(NotAGrade):
        reply_of(value, 1.0)


def test_a_scalar_of_an_array_library_is_a_number() -> None:
    import numpy as np

    assert reply_of(np.float32(0.5), 1.0) == {"status": "wrong", "score": 0.5}
    assert reply_of(np.bool_(True), 1.0) == {"status": "correct"}
