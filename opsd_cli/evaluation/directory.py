"""An evaluation directory: each sample is appended once graded, so that a kill loses few of them.

    evaluation.json  config.yaml  problems.json  prompts.json  samples.jsonl  results.json
    report.html

`evaluation.json` describes what was measured: model, adapter, prompts, sampling, backend. All
samples of a directory have one description, and questions and answers that have not changed since
they were graded (`problems.json` records both). More samples per problem, more problems or another
benchmark do not change the description: missing samples are generated, and existing ones are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from opsd_cli.config.resolve import to_yaml
from opsd_cli.config.schema import Config
from opsd_cli.errors import RunError
from opsd_cli.evaluation.description import setting_name, with_grader
from opsd_cli.evaluation.samples import Sample, graded
from opsd_cli.files.atomic_write import commit_staged, stage, write_atomic
from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.files.fresh_directory import fresh_directory
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import Log, damaged, read_rows
from opsd_cli.grading import Grader, Item
from opsd_cli.grading.flexible import grade_items
from opsd_cli.problems import Problem
from opsd_cli.training.run_directory import CONFIG, refuse_used

DESCRIPTION = "evaluation.json"
PROBLEMS = "problems.json"
#: The prompt of each problem as it was sent.
PROMPTS = "prompts.json"
SAMPLES = "samples.jsonl"
RESULTS = "results.json"
REPORT = "report.html"
#: Keys of `evaluation.json` that may grow from one call to the next.
EXTENT = ("benchmarks", "limit", "samples")
#: Settings that an older `evaluation.json` does not have, with the value they then had.
DEFAULTS = {"grader": "math"}
_FIELDS = {field.name for field in fields(Sample)}
#: Those that every version has written.
_REQUIRED = {field.name for field in fields(Sample) if field.default is MISSING}


def make_default_directory() -> Path:
    """Make a new directory such as runs/eval-20261123-094500; raises `OSError` if it cannot be."""
    return fresh_directory(Path("runs"), f"eval-{datetime.now():%Y%m%d-%H%M%S}")


class EvaluationDirectory:
    """The directory of one evaluation; each line of its samples names the benchmark.

    Use as a context manager to lock it: no other process can then write to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._log: Log | None = None

    def __enter__(self) -> EvaluationDirectory:
        self._lock = lock_directory(self.path)
        self._log = Log(self.path / SAMPLES)
        self._log.keep(self._log.rows())  # drops a line that a kill cut short
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @classmethod
    def create(
        cls, directory: Path | None, description: Mapping[str, Any], config: Config | None = None
    ) -> EvaluationDirectory:
        """A new one; raises `RunError` where the directory is used or cannot be written.

        Args:
            directory: None makes one (`make_default_directory`).
        """
        if directory is not None:
            refuse_used(directory)
        try:
            if directory is None:
                directory = make_default_directory()
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write to {directory or error.filename}: {error.strerror}",
                "give another --out DIR",
            ) from error
        if config is not None:
            stage(directory / CONFIG, to_yaml(config))
        # From the moment its description is there, the directory holds an evaluation.
        write_atomic(directory / DESCRIPTION, json.dumps(description, indent=1) + "\n")
        commit_staged(directory / CONFIG)
        return cls(directory)

    @classmethod
    def open(cls, directory: Path) -> EvaluationDirectory:
        """An existing one; raises `RunError` where there is none."""
        if not (directory / DESCRIPTION).is_file():
            raise RunError(
                f"{directory} is not an evaluation: it has no {DESCRIPTION}",
                "give the directory of an evaluation",
            )
        with contextlib.suppress(OSError):  # a read-only directory can still be read
            commit_staged(directory / CONFIG)
        return cls(directory)

    @property
    def config_file(self) -> Path | None:
        """The config that the evaluation was made with; None if it has none."""
        path = self.path / CONFIG
        return path if path.is_file() else None

    def require_same(self, description: Mapping[str, Any], regrading: bool = False) -> None:
        """Raise `RunError`, naming what differs, unless the descriptions are equal.

        Only regrading may change the grader: otherwise one set of samples would have two.
        """
        then, now = self.description, DEFAULTS | json.loads(json.dumps(description))
        if regrading:
            then = with_grader(then, now)
        changed = sorted(
            key for key in (then.keys() | now.keys()) - set(EXTENT) if then.get(key) != now.get(key)
        )
        if changed:
            names = ", ".join(map(setting_name, changed))
            raise RunError(
                f"{self.path} was made with other settings: {names}",
                f"leave out the flags that change them ({CONFIG} there has the settings), or give "
                "another --out",
            )

    @property
    def description(self) -> dict[str, Any]:
        """What was measured.

        Raises:
            RunError: `evaluation.json` is damaged.
        """
        found = read_object(self.path / DESCRIPTION)
        if found is None:
            raise _damaged(self.path / DESCRIPTION)
        return DEFAULTS | found

    def require_extent(self) -> None:
        """Raise `RunError` unless `evaluation.json` records how far the evaluation went."""
        if not self.description.keys() >= set(EXTENT):
            raise _damaged(self.path / DESCRIPTION)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Replace `evaluation.json`."""
        write_atomic(self.path / DESCRIPTION, json.dumps(description, indent=1) + "\n")

    def problems(self) -> dict[str, dict[str, dict[str, str]]]:
        """Benchmark -> problem id -> its question and answer, as they were when sampled."""
        path = self.path / PROBLEMS
        if not path.exists():
            return {}
        found = read_object(path)
        known = {"question", "answer"}
        if found is None or not all(
            isinstance(members, dict)
            and all(isinstance(p, dict) and p.keys() >= known for p in members.values())
            for members in found.values()
        ):
            raise _damaged(path)
        return found

    def keep_problems(self, sets: Mapping[str, Sequence[Problem]], regrading: bool = False) -> None:
        """Add problems to `problems.json`.

        Raises:
            RunError: one is there already with another question, or, unless regrading, another
                answer.
        """
        known = self.problems()
        for benchmark, members in sets.items():
            mine = known.setdefault(benchmark, {})
            for problem in members:
                now = {"question": problem.question, "answer": problem.answer or ""}
                if problem.fields:
                    text = json.dumps(dict(problem.fields), sort_keys=True)
                    now["fields"] = hashlib.sha256(text.encode()).hexdigest()[:16]
                then = mine.get(problem.id, now)
                if then["question"] != now["question"]:
                    raise RunError(
                        f"problem {problem.id!r} of {benchmark} is another one than when "
                        f"{self.path} was made",
                        "the set has changed: give another --out",
                    )
                if then != now and not regrading:
                    changed = (
                        f"now has the answer {now['answer']!r}, and had {then['answer']!r}"
                        if then["answer"] != now["answer"]
                        else "now has other values in the columns that are kept than"
                    )
                    raise RunError(
                        f"problem {problem.id!r} of {benchmark} {changed} when its samples were "
                        "graded",
                        f"grade them again first: --regrade --out {self.path}",
                    )
                mine[problem.id] = now
        write_atomic(self.path / PROBLEMS, json.dumps(known, ensure_ascii=False, indent=1) + "\n")

    def prompts(self) -> dict[str, dict[str, str]]:
        """Benchmark -> problem id -> its prompt as it was sent; an older evaluation has none."""
        return read_object(self.path / PROMPTS) or {}

    def keep_prompts(self, benchmark: str, prompts: Mapping[str, str]) -> None:
        """Add a benchmark's prompts by problem id to `prompts.json`."""
        known = self.prompts()
        known[benchmark] = known.get(benchmark, {}) | dict(prompts)
        write_atomic(self.path / PROMPTS, json.dumps(known, ensure_ascii=False, indent=1) + "\n")

    def samples(self, benchmark: str) -> tuple[Sample, ...]:
        """The samples of a benchmark so far, in the file's order.

        Raises:
            RunError: a line of `samples.jsonl` is damaged.
        """
        found = []
        for number, row in enumerate(read_rows(self.path / SAMPLES), 1):
            if not row.keys() >= _REQUIRED | {"benchmark"}:
                raise damaged(self.path / SAMPLES, number)
            if row["benchmark"] == benchmark:
                found.append(Sample(**{key: row[key] for key in _FIELDS & row.keys()}))
        return tuple(found)

    def append(self, benchmark: str, sample: Sample) -> None:
        """Append one sample and flush it to the operating system."""
        if self._log is None:
            self._log = Log(self.path / SAMPLES)
        self._log.append({"benchmark": benchmark, **sample.as_dict()})

    def put_in_order(self) -> None:
        """Sort `samples.jsonl` by benchmark, problem and sample, in the order of `problems.json`.

        The order of grading depends on how many samples are drawn at once, and by how many devices.
        The file is replaced atomically, so a kill loses nothing; samples of unknown problems are
        last.
        """
        if self._log is None:
            self._log = Log(self.path / SAMPLES)
        places: dict[Any, int] = {}
        for benchmark, members in self.problems().items():
            for problem_id in members:
                places[benchmark, problem_id] = len(places)
        rows = self._log.rows()
        self._log.keep(
            sorted(
                rows,
                key=lambda row: (
                    places.get((row["benchmark"], row["problem_id"]), len(places)),
                    row["sample_index"],
                ),
            )
        )

    def regrade(self, problems: Mapping[str, Sequence[Problem]], grader: Grader) -> tuple[int, int]:
        """Grade every stored sample of the given problems again; nothing is sampled.

        `samples.jsonl` is replaced atomically. A sample of a problem that is not given is an error;
        it is never dropped.

        Returns:
            The number of samples whose strict grade changed, and the number of all samples.

        Raises:
            RunError: there are samples of other problems or benchmarks.
        """
        known = {(name, problem.id) for name, members in problems.items() for problem in members}
        for row in read_rows(self.path / SAMPLES):
            if (row.get("benchmark"), row.get("problem_id")) not in known:
                raise RunError(
                    f"{self.path} holds samples of {row.get('benchmark')}, problem "
                    f"{row.get('problem_id')!r}, which is not among the problems given",
                    "leave out --benchmark and --limit, or name all that it was made with",
                )
        changed = 0
        lines: list[tuple[str, Sample]] = []
        for benchmark, members in problems.items():
            by_id = {problem.id: problem for problem in members}
            stored = self.samples(benchmark)
            items = [Item(by_id[s.problem_id], s.completion) for s in stored]
            for sample, grades in zip(stored, grade_items(items, grader), strict=True):
                now = replace(sample, **graded(*grades, sample.completion))
                changed += _strict(now) != _strict(sample)
                lines.append((benchmark, now))
        write_atomic(self.path / SAMPLES, "".join(_line(*line) for line in lines))
        self._log = None  # its state describes the former file
        return changed, len(lines)

    @property
    def summary(self) -> dict[str, Any]:
        """Contents of `results.json`; empty without one."""
        return read_object(self.path / RESULTS) or {}

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replace `results.json`."""
        write_atomic(self.path / RESULTS, json.dumps(results, indent=1) + "\n")


def _damaged(path: Path) -> RunError:
    return RunError(
        f"{path} is damaged", "bring it back from a copy, or evaluate again with another --out"
    )


def _strict(sample: Sample) -> tuple[object, ...]:
    """What the strict grade of a sample consists of."""
    return sample.answer, sample.status, sample.correct, sample.score, sample.feedback


def _line(benchmark: str, sample: Sample) -> str:
    return json.dumps({"benchmark": benchmark, **sample.as_dict()}, ensure_ascii=False) + "\n"
