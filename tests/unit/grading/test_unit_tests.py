"""The grader `code`: programs with their unit tests, and programs that misbehave."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.grading import Grade, GradedProblem, Grader, Item, open_grader
from opsd_cli.grading.unit_tests import program_of, statements_of
from tests.support.cli import Opsd

ASSERTS = "assert f(2) == 4\nassert f(3) == 9"
RIGHT = "def f(x): return x * x"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def grader(said: list[str]) -> Iterator[Grader]:
    with open_grader(Grading(grader="code", deadline_seconds=60.0), said.append) as made:
        yield made


def graded(grader: Grader, program: str, tests: Any = ASSERTS) -> Grade:
    problem = GradedProblem("1", "Square.", fields={"tests": tests})
    [grade] = grader.grade([Item(problem, program)])
    return grade


def test_the_score_is_the_share_of_tests_that_pass(grader: Grader) -> None:
    assert graded(grader, f"So:\n```python\n{RIGHT}\n```\nDone.") == Grade("correct", None, 1.0)
    half = graded(grader, "def f(x): return 4")
    assert (half.status, half.score) == ("wrong", 0.5)
    assert half.feedback == "assert f(3) == 9\nAssertionError; f(3) is 4"
    assert graded(grader, "def g(x): return x").score == 0


@pytest.mark.parametrize(
    ("program", "said_of_it"),
    [
        ("def f(: pass", "the program itself\nSyntaxError"),
        ("raise KeyError('x')", "the program itself\nKeyError: 'x' in line 1"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(0)", "the program ended its process"),
        ("def f(x):\n    return 1 / 0", "ZeroDivisionError: division by zero in line 2"),
        ("def f(x): return input()", "EOFError"),
    ],
)
def test_a_failing_program_is_wrong_with_feedback(
    grader: Grader, said: list[str], program: str, said_of_it: str
) -> None:
    grade = graded(grader, program)
    assert (grade.status, grade.score) == ("wrong", 0)
    assert grade.feedback is not None and said_of_it in grade.feedback
    assert not said, "a program's failure is none of the grader's"


def test_a_program_that_hangs_keeps_the_tests_it_passed(said: list[str]) -> None:
    with open_grader(Grading(grader="code", deadline_seconds=3), said.append) as grader:
        hanging = "def f(x):\n    while x == 3: pass\n    return x * x"
        first, after = graded(grader, hanging), graded(grader, RIGHT)
    assert first.status == "wrong" and "took over 3 seconds" in (first.feedback or "")
    assert after.correct and not said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_program_out_of_memory_fails_its_test(grader: Grader) -> None:
    grade = graded(grader, "def f(x): return bytearray(64 * 2**30)")
    assert grade.status == "wrong" and "MemoryError" in (grade.feedback or "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forks_and_output_of_a_program_change_no_grade(grader: Grader) -> None:
    forking = f"import os\nos.fork(); os.fork()\nprint('noise')\nos.write(1, b'noise')\n{RIGHT}"
    assert graded(grader, forking).score == 1


def test_a_program_leaves_no_file_and_sees_no_secret(
    grader: Grader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writing = "import os\nopen('left', 'w').write('x')\ndef f(x): return os.getcwd()"
    grade = graded(grader, writing, ["assert f(1) == 0"])
    folder = (grade.feedback or "").rpartition("f(1) is ")[2].strip("'")
    assert folder and not Path(folder).exists() and not list(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_SECRET", "x")
        with open_grader(Grading(grader="code", deadline_seconds=60.0)) as other:
            tests = ["import os\nassert 'A_SECRET' not in os.environ"]
            assert graded(other, "x = 1", tests).correct


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces")
def test_a_program_has_no_network_where_the_system_lets_it_leave(grader: Grader) -> None:
    allowed = "from opsd_cli.grading.unit_test_runner import leave_network\nprint(leave_network())"
    import subprocess

    done = subprocess.run([sys.executable, "-c", allowed], capture_output=True, text=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        connecting = f"import socket\ndef f(x): return bool(socket.create_connection({address}, 9))"
        reached = graded(grader, connecting, ["assert f(1)"]).correct
    assert reached == (done.stdout.strip() == "False")


@pytest.mark.parametrize("tests", [None, "", [], "  ", [None], 3])
def test_a_problem_without_tests_is_a_fault_of_the_data(grader: Grader, tests: Any) -> None:
    assert graded(grader, RIGHT, tests).status == "unparsable_gold"


def test_a_completion_without_a_program_has_no_answer(grader: Grader) -> None:
    assert graded(grader, "<think>def f(x): return x * x</think> ").status == "no_answer"


@pytest.mark.parametrize(
    ("cell", "tests"),
    [
        (ASSERTS, ["assert f(2) == 4", "assert f(3) == 9"]),
        ('["assert a", "assert b"]', ["assert a", "assert b"]),
        (["assert a", "x = 1\nassert x"], ["assert a", "x = 1\nassert x"]),
        ("def check(f):\n    assert f(1)\ncheck(f)", ["def check(f):\n    assert f(1)\ncheck(f)"]),
        ("assert (", ["assert ("]),
    ],
)
def test_forms_of_tests(cell: Any, tests: list[str]) -> None:
    assert statements_of(cell) == tests


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na\n```\ntext\n```py\nb\n```", "b"),
        ("a = 1", "a = 1"),
        ("```\na = 1\n", "a = 1"),
        ("``` python\na\n```", "a"),
        ("```python\n```", None),
    ],
)
def test_the_program_of_a_completion(completion: str, program: str | None) -> None:
    assert program_of(completion) == program


def test_a_set_with_tests_and_without_answers_is_evaluated(opsd: Opsd, tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "tests": ["assert True", "assert False"]} for n in range(3)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = "eval --benchmark set.jsonl --json --set grading.grader=code"
    code, out, err = opsd(f"{command} --out e")
    assert code == 0 and "matched" not in err, err
    found = json.loads(out)["benchmarks"]["set.jsonl"]
    assert found["mean_score"]["value"] <= 0.5 and found["accuracy"]["value"] == 0
    code, _, err = opsd(f"{command} --out f --set grading.tests=checks")
    assert code == 2 and "no column 'checks'" in err
    code, _, err = opsd("eval --out g --set grading.grader=code")
    assert code == 2 and "the embedded problems have no column 'tests'" in err
