"""The kit of `benchmarks/real`: solutions, disjoint splits, nothing made twice, clear refusals.

What needs the packages themselves is in tests/real.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.real import make, packages, problems
from benchmarks.real.packages import Package, PackageMissing
from benchmarks.real.problems import Settings

ABSENT = Package("opsd-no-such-package", "1.0")


def gsm(chain: str, answer: str) -> dict[str, Any]:
    return {"question": "q", "answer": answer, "metadata": {"answer_cot": chain}}


@pytest.mark.parametrize(
    ("chain", "answer", "solution"),
    [
        ("3 + 4 = 7\n#### 7", "7", "3 + 4 = 7\nThe answer is \\boxed{7}."),
        ("so 1560\n#### 1,560.0", "1560", "so 1560\nThe answer is \\boxed{1560}."),
        ("3 + 4 = 7\n#### 8", "7", None),
        ("3 + 4 = 7", "7", None),
        ("3 + 4 = 7\n#### seven", "7", None),
    ],
)
def test_real_gsm_solution_is_the_chain_with_a_boxed_answer(
    chain: str, answer: str, solution: str | None
) -> None:
    assert problems.solve_gsm_symbolic(gsm(chain, answer)) == solution


def test_real_chain_sum_solution_has_a_line_for_each_operation() -> None:
    entry = {"answer": "-4", "metadata": {"expression": "4 - 1 - 7"}}
    assert problems.solve_chain_sum(entry) == "4 - 1 = 3\n3 - 7 = -4\nThe answer is \\boxed{-4}."
    assert problems.solve_chain_sum({**entry, "answer": "5"}) is None


def test_real_leg_counting_solution_multiplies_then_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("leg_counting")
    module.ANIMALS = {"ant": 6, "dog": 4}  # type: ignore[attr-defined]
    for name in ("reasoning_gym", "reasoning_gym.arithmetic"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "reasoning_gym.arithmetic.leg_counting", module)
    entry = {"answer": "20", "metadata": {"animals": {"ant": 2, "dog": 2}}}
    assert problems.solve_leg_counting(entry) == (
        "ant: 2 × 6 = 12 legs\ndog: 2 × 4 = 8 legs\n"
        "12 + 8 = 20 legs in total\nThe answer is \\boxed{20}."
    )
    assert problems.solve_leg_counting({**entry, "answer": "21"}) is None


def stream(count: int) -> Iterator[dict[str, Any]]:
    """Entries of which every question occurs twice, once in other white space and case."""
    for n in range(count):
        for question in (f"Sum {n} ?", f"sum  {n}\n?"):
            yield {"question": question, "answer": str(n), "metadata": {}}


def test_real_splits_share_no_question(tmp_path: Path) -> None:
    family = problems.Family({}, lambda entry: f"it is {entry['answer']}")
    rows = problems.distinct_rows(stream(9), family)
    problems.write_splits(tmp_path, "f", rows, Settings(train=4, validation=2, test=3))
    splits = {
        split: list(map(json.loads, (tmp_path / f"f-{split}.jsonl").read_text().splitlines()))
        for split in problems.SPLITS
    }
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 4, "validation": 2, "test": 3,
    }  # fmt: skip
    texts = [
        " ".join(row["question"].casefold().split()) for rows in splits.values() for row in rows
    ]
    assert len(set(texts)) == 9
    assert splits["train"][0] == {"question": "Sum 0 ?", "solution": "it is 0", "answer": "0"}


def test_real_splits_refuse_too_few_distinct_questions(tmp_path: Path) -> None:
    rows = problems.distinct_rows(stream(5), problems.Family({}, lambda entry: "s"))
    with pytest.raises(SystemExit, match=r"test lacks 1; ask for fewer \(--test\)"):
        problems.write_splits(tmp_path, "f", rows, Settings(train=2, validation=2, test=2))


def test_real_problems_lack_answers_that_their_generator_gets_wrong() -> None:
    family = problems.Family({}, lambda entry: "s", wrong_answers=("1", "3"))
    assert [row["answer"] for row in problems.distinct_rows(stream(5), family)] == ["0", "2", "4"]


def part(calls: list[str], **changes: Any) -> make.Part:
    """A part that needs no package, and notes each time it is made."""

    def write(python: Path, folder: Path) -> None:
        calls.append(str(python))
        (folder / "file").write_text("text")

    options = {"name": "part", "packages": (), "present": (), "inputs": {"seed": 1}, "write": write}
    return make.Part(**{**options, **changes})


def test_real_kit_makes_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    assert make.make(tmp_path, [part(calls)]) == []
    assert make.make(tmp_path, [part(calls)]) == []
    assert calls == [sys.executable]
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'part'}: made, 1 files",
        f"{tmp_path / 'part'}: already made",
    ]
    record = json.loads((tmp_path / "manifest.json").read_text())["part"]
    assert record["inputs"] == {"packages": [], "seed": 1}
    assert record["made_with"]["python"] and len(record["files"]["file"]) == 64


def test_real_kit_ignores_the_folders_of_other_programs(tmp_path: Path) -> None:
    calls: list[str] = []
    make.make(tmp_path, [part(calls)])
    (tmp_path / "part" / "cache").mkdir()
    make.make(tmp_path, [part(calls)])
    assert len(calls) == 1


@pytest.mark.parametrize("change", ["inputs", "file", "folder", "manifest"])
def test_real_kit_makes_again_what_changed(tmp_path: Path, change: str) -> None:
    calls: list[str] = []
    make.make(tmp_path, [part(calls)])
    if change == "file":
        (tmp_path / "part" / "file").write_text("other")
    if change == "folder":
        (tmp_path / "part").rename(tmp_path / "elsewhere")
    if change == "manifest":
        (tmp_path / "manifest.json").write_text("{")
    make.make(tmp_path, [part(calls, inputs={"seed": 2 if change == "inputs" else 1})])
    assert len(calls) == 2
    assert (tmp_path / "part" / "file").read_text() == "text"


def test_real_kit_makes_the_other_part_when_a_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wanted: tuple[Package, ...], folder: Path) -> Path:
        if wanted:
            raise PackageMissing(f"{wanted[0]} cannot be installed: no index\ninstall it")
        return Path(sys.executable)

    monkeypatch.setattr(make, "interpreter_with", refuse)
    calls: list[str] = []
    missing = make.make(tmp_path, [part(calls, name="a", packages=(ABSENT,)), part(calls)])
    assert missing == [f"no a: {ABSENT} cannot be installed: no index\ninstall it"]
    assert len(calls) == 1 and not (tmp_path / "a").exists()


def test_real_kit_names_the_package_that_pip_cannot_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(packages, "_make", lambda folder: link_python(folder))
    with pytest.raises(PackageMissing) as caught:
        packages.interpreter_with([ABSENT], tmp_path)
    problem, hint = str(caught.value).splitlines()
    assert problem.startswith(f"{ABSENT} cannot be installed: No matching distribution found")
    assert f"pip install {ABSENT}" in hint


def link_python(folder: Path) -> None:
    """An environment that is this one, which takes no seconds to make."""
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def test_real_kit_uses_the_present_environment_where_it_has_the_packages(tmp_path: Path) -> None:
    version = packages.importlib.metadata.version("pytest")
    assert packages.interpreter_with([Package("pytest", version)], tmp_path) == Path(sys.executable)
    assert list(tmp_path.iterdir()) == []


def test_real_kit_names_a_module_that_the_present_environment_lacks() -> None:
    with pytest.raises(PackageMissing, match="opsd_no_such_module not installed here"):
        packages.require_present(["json", "opsd_no_such_module"])


def test_real_kit_command_exits_3_when_a_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make", "--out", str(tmp_path)])
    monkeypatch.setattr(make, "make", lambda directory, wanted: ["no model: x cannot be installed"])
    with pytest.raises(SystemExit) as left:
        make.main()
    assert left.value.code == make.EXIT_MISSING
    assert capsys.readouterr().err == "no model: x cannot be installed\n"
