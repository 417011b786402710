"""Every catalogued set on rows with its columns: the row filter and the column mapping.

The rows are made up; the columns, their types and the filtered values are those of the sets.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import backends
from opsd_cli.cli.app import main
from opsd_cli.config.resolve import resolve
from opsd_cli.config.sections import Columns
from opsd_cli.errors import ConfigError, DataError
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.catalog import BENCHMARKS, TRAINING, describe
from opsd_cli.problems.columns import build, choose
from opsd_cli.problems.selection import Selection
from opsd_cli.problems.set_description import SetDescription, parse_hub_id
from opsd_cli.problems.sources import load_benchmark, load_splits

THOUGHT = "<think>Hm. 2+2... or 5?</think>\nTwo and two make four: \\boxed{4}."
R1 = {
    "problem": "2+2?", "solution": "4", "answer": "4", "source": "olympiads", "uuid": "u",
    "generations": ["<think>5</think> \\boxed{5}", "<think>cut", THOUGHT],
    "correctness_math_verify": [False, True, True], "is_reasoning_complete": [True, False, True],
}  # fmt: skip
NUMINA = {
    "problem": "2+2?", "solution": "Two pairs: four.", "answer": "4", "problem_type": "Algebra",
    "question_type": "math-word-problem", "problem_is_valid": "Yes", "solution_is_valid": "Yes",
    "source": "amc_aime", "synthetic": False,
}  # fmt: skip
S1K = {
    "question": "2+2?", "solution": "4", "cot_type": "math", "source_type": "x", "metadata": "{}",
    "deepseek_thinking_trajectory": "Hm.", "deepseek_attempt": "Four: \\boxed{4}.",
    "deepseek_grade": "Yes", "gemini_attempt": "5", "gemini_grade": "No",
}  # fmt: skip
OPEN_THOUGHTS = {
    "problem": "2+2?", "deepseek_reasoning": "Hm.", "deepseek_solution": "Four: \\boxed{4}.",
    "ground_truth_solution": "4", "domain": "math", "source": "numina_math",
}  # fmt: skip
MATHARENA = {"problem_idx": 7, "problem": "2+2?", "answer": 4, "problem_type": ["Algebra"]}
GSM = {"question": "2+2?", "answer": "Two and two are <<2+2=4>>4.\n#### 4"}
AMO = {
    "question_id": 3, "prompt": "2+2?", "solution": "Pairs.", "answer": "\\boxed{4}",
    "answer_type": "number",
}  # fmt: skip

#: Name -> rows of its shape. The first is used, as question "2+2?" and answer "4"; others are not.
TRAINING_ROWS: dict[str, list[dict[str, Any]]] = {
    "openthoughts-30k": [
        {"problem": "2+2?", "solution": "Four: \\boxed{4}.", "Answer": "4", "COT_Reason": "Hm."}
    ],
    "openthoughts-114k": [
        OPEN_THOUGHTS,
        OPEN_THOUGHTS | {"problem": "Sort a list", "domain": "code"},
        OPEN_THOUGHTS | {"problem": "3+3?", "deepseek_solution": "Six."},
    ],
    "openr1-math-220k": [
        R1,
        R1 | {"problem": "none", "correctness_math_verify": [False, False, False]},
        R1 | {"problem": "no flags", "correctness_math_verify": None},
    ],
    "numinamath-1.5": [
        NUMINA,
        NUMINA | {"problem": "a", "problem_is_valid": "Incomplete"},
        NUMINA | {"problem": "b", "solution_is_valid": "Problem not solved"},
        NUMINA | {"problem": "c", "question_type": "proof", "answer": "proof"},
        NUMINA | {"problem": "d", "question_type": "MCQ", "answer": "B"},
        NUMINA | {"problem": "e", "answer": "notfound"},
    ],
    "deepmath-103k": [
        {"question": "2+2?", "final_answer": "4", "difficulty": 2.0, "topic": "Algebra",
         "r1_solution_1": THOUGHT, "r1_solution_2": "no", "r1_solution_3": "no"}
    ],
    "s1k-1.1": [
        S1K,
        S1K | {"question": "a", "cot_type": "crossword"},
        S1K | {"question": "b", "deepseek_grade": "No"},
    ],
    "gsm8k": [GSM],
    "dapo-math-17k": [
        {"prompt": "2+2?", "solution": "4", "data_source": "math_dapo", "ability": "MATH",
         "source_prompt": [{"role": "user", "content": "Solve: 2+2?"}]}
    ],
}  # fmt: skip
BENCHMARK_ROWS: dict[str, list[dict[str, Any]]] = {
    "aime24": [{"id": 60, "problem": "2+2?", "solution": "Pairs.", "answer": "4", "year": "2024"}],
    "aime25": [{"problem": "2+2?", "answer": "4", "id": "0"}],
    "aime26": [MATHARENA],
    "hmmt_feb25": [MATHARENA | {"answer": "4"}],
    "hmmt_nov25": [MATHARENA | {"answer": "4"}],
    "hmmt_feb26": [MATHARENA | {"answer": "4"}],
    "amo_bench": [AMO, AMO | {"question_id": 4, "prompt": "Say", "answer_type": "description"}],
    "math500": [
        {"problem": "2+2?", "solution": "Four: $\\boxed{4}$.", "answer": "4", "subject": "Algebra",
         "level": 1, "unique_id": "test/algebra/1.json"}
    ],
    "amc23": [{"id": 0, "question": "2+2?", "answer": "4", "url": "https://example.org"}],
    "minerva": [{"question": "2+2?", "answer": "4"}],
    "olympiadbench": [
        {"id": 1606, "question": "2+2?", "solution": ["Pairs."], "final_answer": ["4"],
         "is_multiple_answer": False, "unit": None, "answer_type": "Numerical"}
    ],
    "beyondaime": [{"problem": "2+2?", "answer": 4}],
    "gsm8k": [GSM],
}  # fmt: skip
CASES = [("train", name, rows) for name, rows in TRAINING_ROWS.items()] + [
    ("test", name, rows) for name, rows in BENCHMARK_ROWS.items()
]


def read(entry: SetDescription, rows: list[dict[str, Any]], need_solution: bool) -> ProblemSet:
    needs = {"name": "made", "need_solution": need_solution, "need_answer": True}
    selection = Selection.of(entry)
    columns = entry.columns.model_dump()
    chosen = choose(list(rows[0]), columns, **needs, selection=selection)  # type: ignore[arg-type]
    return build(rows, chosen, **needs, selection=selection)  # type: ignore[arg-type]


@pytest.mark.parametrize(("role", "name", "rows"), CASES, ids=[f"{r}-{n}" for r, n, _ in CASES])
def test_the_column_mapping_and_row_filter_of_every_catalogued_set(
    role: str, name: str, rows: list[dict[str, Any]]
) -> None:
    entry = describe(name, role)
    assert entry is not None
    solvable = role == "train" and name != "dapo-math-17k"
    loaded = read(entry, rows, need_solution=solvable)
    assert [(p.question, p.answer) for p in loaded.problems] == [("2+2?", "4")]
    assert loaded.report.rows == len(rows) and loaded.report.used == 1
    solution = loaded.problems[0].solution
    if solvable:
        assert solution is not None and "<think>" not in solution
        assert re.search(r"our|\\boxed\{4\}|#### 4", solution)


def test_every_catalogued_set_has_a_test_row_a_title_a_licence_and_a_revision() -> None:
    assert TRAINING_ROWS.keys() == TRAINING.keys() and BENCHMARK_ROWS.keys() == BENCHMARKS.keys()
    for entry in [*TRAINING.values(), *BENCHMARKS.values()]:
        assert entry.title and entry.licence and entry.split
        assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)
        assert entry.revision or "Not pinned" in entry.caution
    assert all(entry.revision and entry.problems for entry in BENCHMARKS.values())


def test_a_name_of_both_a_training_set_and_a_benchmark() -> None:
    assert describe("gsm8k", "train") is TRAINING["gsm8k"]
    assert describe("gsm8k", "test") is BENCHMARKS["gsm8k"]
    assert describe("AIME24", "test") is BENCHMARKS["aime24"]
    with pytest.raises(DataError, match="aime24 is a benchmark"):
        describe("aime24", "train")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", (None, None, None)),
        ("org/name:test", (None, None, "test")),
        ("org/name:main:test", (None, "main", "test")),
        ("org/name@v1.0", ("v1.0", None, None)),
        ("org/name@refs/pr/3:main:test", ("refs/pr/3", "main", "test")),
    ],
)
def test_a_hub_id_says_revision_subset_and_split(
    text: str, expected: tuple[str | None, ...]
) -> None:
    parsed = parse_hub_id(text)
    assert parsed is not None and parsed.data == "org/name"
    assert (parsed.revision, parsed.subset, parsed.split) == expected


def test_other_texts_are_no_hub_ids() -> None:
    assert parse_hub_id("name") is None
    assert parse_hub_id("./a/b") is None
    assert parse_hub_id("a/b/c") is None
    assert describe("folder/problems.jsonl", "test") is None


def test_a_benchmark_described_in_a_yaml_file(tmp_path: Path) -> None:
    rows = [{"q": f"{n}+1?", "a": n + 1, "level": "hard" if n % 2 else "easy"} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "data: rows.jsonl\ncolumns: {question: q, answer: a}\nkeep: {level: hard}\n"
        "prompt: 'Answer in a box. {question}'\nproblems: 6\n"
    )
    loaded = load_benchmark(str(mine), resolve())
    assert loaded.name == "mine" and loaded.prompt == "Answer in a box. {question}"
    assert [p.answer for p in loaded.problems] == ["2", "4", "6", "8", "10"]
    assert loaded.report.not_selected == 5
    assert "5 problems where 6 were expected" in loaded.notes[0]
    mine.write_text("data: rows.jsonl\nprompt: no placeholder\n")
    with pytest.raises(ConfigError, match="question"):
        load_benchmark(str(mine), resolve())


def test_an_entry_in_the_catalog_is_all_that_a_new_set_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"q": f"{n} + 1", "a": n + 1, "s": f"{n} + 1 = {n + 1}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Columns(question="q", answer="a", solution="s")
    entry = SetDescription(
        title="sums", data=str(tmp_path / "rows.jsonl"), columns=columns, problems=40
    )
    monkeypatch.setitem(BENCHMARKS, "sums_test", entry)
    monkeypatch.setitem(TRAINING, "sums", entry)
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)

    def opsd(command: str) -> Any:
        monkeypatch.setattr("sys.argv", ["opsd", *command.split(), "--json"])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert not left.value.code, captured.err
        return json.loads(captured.out)

    measured = opsd("eval --benchmark sums_test --out e")["benchmarks"]["sums_test"]
    assert measured["problems"] == 40
    trained = opsd("train --set data.train=sums --out run --set train.steps=2")
    assert trained["steps"] == 2
    listed = opsd("data")
    assert "sums" in listed["training"] and "sums_test" in listed["benchmarks"]
    assert opsd("data show sums_test")["title"] == "sums"
    with pytest.raises(DataError) as caught:
        describe("sums_tset", "test")
    assert "did you mean 'sums_test'?" in caught.value.hint


def test_a_training_set_without_solutions_is_for_grpo_only(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(f'{{"question": "{n}+1?", "answer": "{n + 1}"}}\n' for n in range(40)))
    assert len(load_splits(resolve(None, [f"data.train={path}", "method=grpo"])).train.problems)
    for method in ("opsd", "sft", "hybrid"):
        with pytest.raises(DataError, match="no column for the solution"):
            load_splits(resolve(None, [f"data.train={path}", f"method={method}"]))


def test_grpo_and_opsd_use_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    rows = [
        {"question": f"{n}+1?", "answer": n + 1} | ({"solution": "by hand"} if n % 2 else {})
        for n in range(80)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [
        load_splits(resolve(None, [f"data.train={path}", f"method={method}"]))
        for method in ("opsd", "grpo")
    ]
    assert sets[0].train.digest() == sets[1].train.digest()
    assert sets[0].test.digest() == sets[1].test.digest()
