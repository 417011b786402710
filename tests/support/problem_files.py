"""Files of problems for tests: writers of every format, and loading with the usual defaults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opsd_cli.problems import ProblemSet
from opsd_cli.problems.files import load_file

ROWS: list[dict[str, Any]] = [
    {"question": "What is 2+3?", "solution": "2+3=5, so \\boxed{5}.", "answer": "5"},
    {"question": "What, then,\nis 4+4?", "solution": 'Say "eight":\n\\boxed{8}', "answer": "8"},
    {"question": "Wie groß ist ½?", "solution": "½ = 0.5", "answer": "073"},
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: Mapping[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "jsonl": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "parquet": write_parquet,
}


def load(path: Path, columns: Mapping[str, str | None] | None = None, **options: Any) -> ProblemSet:
    return load_file(path, columns, **{"need_solution": False, "need_answer": False, **options})


def load_text(folder: Path, name: str, text: str, **options: Any) -> ProblemSet:
    (folder / name).write_text(text, encoding="utf-8")
    return load(folder / name, **options)


def answers(problems: ProblemSet) -> list[str | None]:
    return [problem.answer for problem in problems.problems]
