"""Splits: named, embedded, or held out; no overlap between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import DataError
from opsd_cli.problems.sources import Splits, load_benchmark, load_splits


def write(path: Path, numbers: range, **more: str) -> Path:
    rows = [
        {"question": f"{n} + 1", "solution": "by hand", "answer": n + 1} | more for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def splits(*assignments: str) -> Splits:
    return load_splits(resolve(None, assignments))


def questions(loaded: Splits) -> list[set[str]]:
    sets = (loaded.train, loaded.validation, loaded.test)
    return [{problem.question for problem in each.problems} for each in sets]


def test_the_embedded_splits_have_their_sizes() -> None:
    assert [len(q) for q in questions(splits())] == [2000, 200, 400]
    assert [len(q) for q in questions(splits("data.test_problems=7"))] == [2000, 200, 7]


def test_hold_out_of_validation_and_test_from_a_single_file(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", range(100))
    loaded = splits(f"data.train={file}")
    train, validation, test = questions(loaded)
    assert (len(train), len(validation), len(test)) == (80, 10, 10)
    assert not train & validation and not train & test and not validation & test
    assert "10 for validation and 10 for test" in loaded.notes[0]


def test_the_hold_out_depends_on_the_problems_only(tmp_path: Path) -> None:
    forward = write(tmp_path / "forward.jsonl", range(100))
    backward = write(tmp_path / "backward.jsonl", range(99, -1, -1))
    one, two = (splits(f"data.train={f}", f"seed={s}") for s, f in enumerate((forward, backward)))
    assert questions(one) == questions(two)


def test_the_hold_out_does_not_depend_on_the_limit(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", range(100))
    whole, some = splits(f"data.train={file}"), splits(f"data.train={file}", "data.limit=30")
    assert questions(some)[1:] == questions(whole)[1:]
    assert questions(some)[0] < questions(whole)[0] and len(questions(some)[0]) == 30
    assert [p.id for p in some.train.problems] == [p.id for p in whole.train.problems][:30]


def test_keys_are_unique_across_sets_with_the_same_ids(tmp_path: Path) -> None:
    for folder, numbers in (("a", range(30)), ("b", range(30, 60)), ("c", range(60, 90))):
        (tmp_path / folder).mkdir()
        rows = [
            {"id": n % 30, "question": f"{n} + 1", "solution": "by hand", "answer": n + 1}
            for n in numbers
        ]
        (tmp_path / folder / "all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    loaded = splits(
        "data.columns.id=id",
        *(
            f"data.{split}={tmp_path / folder / 'all.jsonl'}"
            for split, folder in (("train", "a"), ("validation", "b"), ("test", "c"))
        ),
    )
    sets = (loaded.train, loaded.validation, loaded.test)
    assert len({problem.key for each in sets for problem in each.problems}) == 90
    assert {problem.id for problem in loaded.test.problems} == {str(n) for n in range(30)}


def test_named_splits_are_used_whole(tmp_path: Path) -> None:
    files = {
        name: write(tmp_path / f"{name}.jsonl", numbers)
        for name, numbers in (
            ("train", range(30)), ("validation", range(30, 35)), ("test", range(35, 42)),
        )
    }  # fmt: skip
    loaded = splits(*(f"data.{name}={file}" for name, file in files.items()))
    assert [len(q) for q in questions(loaded)] == [30, 5, 7]


def test_contamination_test_questions_are_removed_from_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", range(40))
    test = write(tmp_path / "test.jsonl", range(37, 42))
    with test.open("a") as out:
        out.write('{"question": " 12  +\\n1", "answer": "13"}\n')
    loaded = splits(f"data.train={train}", f"data.test={test}")
    assert "train.jsonl: 4 left out, as " in loaded.notes[-1]
    learnt, validation, tested = questions(loaded)
    assert not learnt & tested and "12 + 1" not in learnt
    assert len(learnt) + len(validation) == 36


def test_contamination_of_the_whole_training_set_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", range(20))
    other = write(tmp_path / "validation.jsonl", range(50, 55))
    with pytest.raises(DataError, match=r"every problem of train\.jsonl is in"):
        splits(f"data.train={train}", f"data.test={train}", f"data.validation={other}")


def test_overlap_of_validation_and_test_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", range(30))
    test = write(tmp_path / "test.jsonl", range(40, 45))
    with pytest.raises(DataError, match=r"share 5 questions, the first is '40 \+ 1'"):
        splits(f"data.train={train}", f"data.validation={test}", f"data.test={test}")


def test_overlap_of_one_question_ignores_case_and_spacing(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", range(30))
    test = write(tmp_path / "test.jsonl", range(40, 45))
    validation = write(tmp_path / "validation.jsonl", range(50, 55))
    for file, question in ((test, "What is 2 + 2?"), (validation, " what  IS\n2 + 2? ")):
        with file.open("a") as out:
            out.write(json.dumps({"question": question, "solution": "2 + 2 = 4", "answer": "4"}))
    with pytest.raises(DataError, match=r"validation\.jsonl and test\.jsonl share 1 question: '"):
        splits(f"data.train={train}", f"data.validation={validation}", f"data.test={test}")


def test_rows_left_out_are_reported(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", range(100))
    with file.open("a") as out:
        out.write('{"question": "no solution", "answer": "1"}\n')
    assert any("1 without a solution" in note for note in splits(f"data.train={file}").notes)


def test_a_benchmark_needs_answers_but_no_solutions(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "?"}\n')
    loaded = load_benchmark(str(file), resolve())
    assert [p.question for p in loaded.problems] == ["1+1"]
    assert loaded.report.no_answer == 1
    assert len(load_benchmark("embedded", resolve(), limit=3).problems) == 3
