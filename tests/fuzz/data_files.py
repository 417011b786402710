"""Damaged and odd data files through the real loader.

    python -m tests.fuzz.data_files --cases 2000 --seed 0

A file loads with every row accounted for and every text as a plain reader of the format has it, or
it is refused in one clear line. Prints a table of outcomes; the same seed makes the same files.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opsd_cli.cli.failures import explained
from opsd_cli.errors import OpsdError
from opsd_cli.printable import visible_line
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.files import load_file
from tests.support import hostile_text

LONGEST_LINE = 5000
NAMES = ("question", "problem", "solution", "answer", "id", "extra", "Question", "a.b", "")
Rows = list[dict[str, Any]]


class Wrong(AssertionError):
    """A case that loaded with other texts or counts, or failed without one clear line."""


def cell(rng: random.Random, depth: int = 0) -> Any:
    """A random JSON value."""
    kind = rng.randrange(14)
    if kind < 6:
        return hostile_text.text(rng, surrogates=rng.random() < 0.1)
    if kind == 6:
        return rng.choice([None, True, False, "", [], {}])
    if kind == 7:
        return rng.choice([0, -1, 10**30, 10**400, 2**63, 73])
    if kind == 8:
        return rng.choice([0.5, 1e300, float("inf"), float("nan"), -0.0, 1e-7])
    if kind == 9 and depth < 4:
        return [cell(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 10 and depth < 4:
        return {rng.choice(NAMES): cell(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    if kind == 11:
        return "z" * rng.choice([1, 10_000, 300_000])
    return f"plain {rng.randrange(50)}"


def some_rows(rng: random.Random) -> Rows:
    rows = []
    for number in range(rng.choice([0, 1, 2, 5, 12])):
        row = {"question": f"question {number}", "solution": "s", "answer": str(number)}
        for _ in range(rng.randint(0, 3)):
            row[rng.choice(NAMES)] = cell(rng)
        for name in list(row):
            if rng.random() < 0.05:
                del row[name]
        rows.append(row)
    return rows


def nested(rng: random.Random) -> bytes:
    """Deeply nested JSON, written by hand because `json.dumps` refuses such depth."""
    depth = rng.choice([50, 480, 490, 496, 600, 900, 990, 1500, 100_000])
    opening, closing = rng.choice([('{"a":', "}"), ("[", "]"), ('[{"b":', "}]")])
    deep = opening * depth + "1" + closing * depth
    where = rng.choice(["question", "answer", "solution", "extra"])
    row = '{"question": "%s", "solution": "s", "answer": "1"%s}\n'
    return (row % ("q", "") + row % ("p", f', "{where}": {deep}')).encode()


def jsonl(rng: random.Random) -> bytes:
    end = rng.choice(["\n", "\r\n", "\n\n"])
    ascii_only = rng.random() < 0.5
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in some_rows(rng)]
    return (end.join(lines) + rng.choice(["", end])).encode("utf-8", "surrogatepass")


def json_list(rng: random.Random) -> bytes:
    value: Any = some_rows(rng)
    if rng.random() < 0.3:
        value = {"rows": value, "version": 1}
    elif rng.random() < 0.1:
        value = cell(rng)
    return json.dumps(value, indent=rng.choice([None, 1])).encode()


def csv_text(rng: random.Random) -> bytes:
    rows = some_rows(rng)
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["question"]
    out = io.StringIO()
    writer = csv.writer(
        out,
        lineterminator=rng.choice(["\n", "\r\n", "\r"]),
        quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    )
    writer.writerow(names)
    for row in rows:
        writer.writerow([row.get(name, "") for name in names])
    return out.getvalue().encode("utf-8", "surrogatepass")


def parquet(rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = rng.choice([0, 1, 3, 9])
    columns: dict[str, Any] = {}
    for name in ("question", "solution", "answer", *rng.sample(NAMES, rng.randint(0, 2))):
        columns[name] = _column(rng, size)
    table = pa.table(columns)
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=rng.choice([1, 4, 1000]))
    return out.getvalue()


def _column(rng: random.Random, size: int) -> Any:
    import pyarrow as pa

    texts = [hostile_text.text(rng).encode() for _ in range(size)]
    kind = rng.randrange(12)
    if kind < 4:
        return pa.array([text.decode() for text in texts], pa.string())
    if kind < 6:  # bytes that are no UTF-8, called text
        broken = [t + b"\xff\xfe" if rng.random() < 0.3 else t for t in texts]
        wide = kind == 5
        raw = pa.array(broken, pa.large_binary() if wide else pa.binary())
        text_type = pa.large_string() if wide else pa.string()
        return pa.Array.from_buffers(text_type, size, raw.buffers())
    if kind == 6:
        return pa.array(texts, pa.binary())
    if kind == 7:
        return pa.array([rng.choice([None, 1, 2**62, -5]) for _ in range(size)], pa.int64())
    if kind == 8:
        return pa.array([rng.choice([0.5, float("nan"), 1e300, None]) for _ in range(size)])
    if kind == 9:
        return pa.array([[t.decode()] * rng.randint(0, 2) for t in texts], pa.list_(pa.string()))
    if kind == 10:
        kept = pa.struct([("text", pa.string()), ("n", pa.int32())])
        return pa.array([{"text": t.decode(), "n": 1} for t in texts], kept)
    return pa.array([None] * size, rng.choice([pa.null(), pa.date32(), pa.timestamp("us")]))


def described(rng: random.Random) -> bytes:
    """A YAML description of a problem set, which refers to good.jsonl beside it."""
    keys = ["data", "columns", "keep", "drop", "verified_by", "prompt", "problems", "title", "x"]
    lines = [f"data: {rng.choice(['good.jsonl', 'good.jsonl', 'none.jsonl', '[]', '~x/y.csv'])}"]
    for _ in range(rng.randint(0, 3)):
        value = rng.choice(
            [json.dumps(hostile_text.text(rng)), "{question: question}", "{answer: nosuch}",
             "[1, 2]",
             "{id: {deep: 1}}", "null", "7", "-1", "1e999", "!!python/object:os.system x", "*a",
             "&a [*a]", "[" * rng.choice([5, 500, 50_000]), "{a: b", "\t- x", "{question}", "yes"]
        )  # fmt: skip
        lines.append(f"{rng.choice(keys)}: {value}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


MAKERS: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "JSONL": (".jsonl", jsonl),
    "JSON": (".json", json_list),
    "nested JSONL": (".jsonl", nested),
    "CSV": (".csv", csv_text),
    "Parquet": (".parquet", parquet),
    "YAML description": (".yaml", described),
}


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """The bytes as they are, truncated, with flipped bits, with a BOM, or in another encoding."""
    kind = rng.randrange(12)
    if kind == 0 and data:
        return data[: rng.randrange(len(data))]
    if kind == 1 and data:
        place = rng.randrange(len(data))
        return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    if kind == 2:
        return b"\xef\xbb\xbf" + data
    if kind == 3:
        return data.decode("utf-8", "replace").encode("utf-16")
    if kind == 4 and data:
        place = rng.randrange(len(data))
        return data[:place] + rng.choice([b"\x00", b"\xff", b"\r", b"\x1a", b'"']) + data[place:]
    if kind == 5:
        return rng.choice([b"", b"\n", b"\x00", b"\xef\xbb\xbf", b"[]", b"{}", b"null", b"PAR1"])
    return data


def plain_rows(path: Path) -> Rows | None:
    """The rows as the usual reader of the format reads them; None if it fails."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table: Rows = pq.read_table(path).to_pylist()
            return table
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".csv":
            rows = list(csv.reader(io.StringIO(text, newline="")))
            header = [name.strip() for name in rows[0]]
            return [dict(zip(header, row, strict=True)) for row in rows[1:] if row]
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        value = json.loads(text)
        listed: Rows = value["rows"] if isinstance(value, dict) else value
        return listed
    except Exception:
        return None


def require_same_texts(loaded: ProblemSet, rows: Rows) -> None:
    """Check that every problem's texts are those of a row, in the order of the rows."""

    def said(row: Mapping[str, Any], *names: str) -> Any:
        found = next((v for n in names for k, v in row.items() if k.casefold() == n), None)
        return found.strip() if isinstance(found, str) else found

    names = {name for row in rows for name in row}
    if len([n for n in names if n.casefold() in ("question", "problem")]) > 1:
        return  # which of two columns is meant is another test's matter
    if loaded.report.rows != len(rows):
        raise Wrong(f"{loaded.report.rows} rows counted where there are {len(rows)}")

    def fits(problem: Problem, row: Mapping[str, Any]) -> bool:
        question, solution, answer = (
            said(row, *role) for role in (("question", "problem"), ("solution",), ("answer",))
        )
        # A number or a list of one becomes text; of a long answer the marked part is taken.
        marked = isinstance(answer, str) and (not answer or "box" in answer or "####" in answer)
        return (
            (not isinstance(question, str) or question == problem.question)
            and (not isinstance(solution, str) or (solution or None) == problem.solution)
            and (not isinstance(answer, str) or marked or answer == problem.answer)
        )

    rest = iter(rows)
    for problem in loaded.problems:
        if not any(fits(problem, row) for row in rest):
            raise Wrong(f"no row of the file has the texts of {problem!r:.300}")


def account_for(loaded: ProblemSet) -> None:
    report = loaded.report
    left_out = (
        report.not_selected + report.damaged.count + report.unusable_chats.count
        + report.no_question + report.no_solution + report.no_answer + report.duplicates
    )  # fmt: skip
    if report.used + left_out != report.rows or report.used != len(loaded.problems):
        raise Wrong(f"rows unaccounted for: {report}")
    texts = [t for p in loaded.problems for t in (p.id, p.question, p.solution, p.answer) if t]
    if any("\0" in t for t in texts):
        raise Wrong("a NUL came through")
    "".join(texts).encode()
    visible_line(report.sentence())


def load(path: Path, rng: random.Random) -> ProblemSet:
    if path.suffix == ".yaml":
        from opsd_cli.config.schema import Config
        from opsd_cli.problems.sources import load_benchmark

        return load_benchmark(str(path), Config())
    need = rng.random() < 0.5
    return load_file(path, need_solution=need, need_answer=need)


def run_case(seed: int, kind: str, folder: Path) -> str:
    """Run one case; returns "loaded" or "refused".

    Raises:
        Wrong: neither, with what happened.
    """
    rng = random.Random(f"{kind} {seed}")
    suffix, make = MAKERS[kind]
    path = folder / f"case{suffix}"
    path.write_bytes(spoilt(rng, make(rng)))
    (folder / "good.jsonl").write_text('{"question": "1+1", "solution": "s", "answer": "2"}\n' * 1)
    try:
        loaded = load(path, rng)
    except Exception as error:
        known = error if isinstance(error, OpsdError) else explained(error)
        if known is None:
            raise Wrong(f"unexpected: {''.join(traceback.format_exception(error))}") from error
        said = visible_line(known.message)
        if not said or len(known.message) > LONGEST_LINE:
            raise Wrong(f"not one clear line: {known.message[:200]!r}") from error
        return "refused"
    account_for(loaded)
    rows = plain_rows(path) if path.suffix != ".yaml" else None
    if rows is not None:
        require_same_texts(loaded, rows)
    return "loaded"


def run_all(cases: int, seed: int) -> dict[str, Counter[str]]:
    """Outcomes of so many cases of each kind, counted; wrong ones are printed."""
    table: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in MAKERS:
            found: Counter[str] = Counter()
            for number in range(cases):
                try:
                    found[run_case(seed + number, kind, Path(folder))] += 1
                except Wrong as wrong:
                    found["wrong"] += 1
                    print(f"{kind}, seed {seed + number}: {wrong}")
            table[kind] = found
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    table = run_all(given.cases, given.seed)
    print("\n| files | tried | loaded, rows counted | refused in one line | unexpected or other |")
    print("|---|---|---|---|---|")
    for kind, found in table.items():
        print(
            f"| {kind} | {found.total()} | {found['loaded']} | {found['refused']} | "
            f"{found['wrong']} |"
        )


if __name__ == "__main__":
    main()
