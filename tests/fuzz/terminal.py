"""Hostile text on every way to the terminal: no control sequence is obeyed, and `--json` is exact.

    python -m tests.fuzz.terminal --cases 50 --seed 0

Completions, prompts, data, file names and arguments are made of terminal control sequences,
overrides of direction, and Rich markup. What each command prints must hold none of them: without
colours no control character but newline and tab; with colours only sequences that the same command
prints for harmless text. Prints a table of outcomes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import backends
from backends.interface import Capability, Rollout, RolloutRequest
from opsd_cli.cli.app import main as command
from opsd_cli.cli.console import Output
from opsd_cli.printable import visible
from tests.support import hostile_text
from tests.support.fakes import STOP, FakeBackend, FakePolicy

#: Characters that no output may hold outside Rich's own sequences.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: The emoji that the codes among the hostile strings stand for.
_EMOJI = re.compile("[💯😄👍]")
#: Sequences that Rich writes: colours, and redrawing in place.
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\x1b)")
#: Those of notes, warnings, progress bars and redrawing, which some harmless runs lack.
_SHADES = r"(?:0|1|2|3|33|36|38;5;\d+|38;2;\d+;\d+;\d+)"
_USUAL = re.compile(rf"\x1b\[(?:{_SHADES}(?:;{_SHADES})*m|\d+A|2K|\?25[lh])|\r")
QUICK = [
    "--set", "train.steps=2", "--set", "train.evaluate_every=1",
    "--set", "train.questions_per_step=2", "--set", "preflight.enabled=false",
]  # fmt: skip


class Wrong(AssertionError):
    """A control sequence was printed, or text was changed."""


class Hostile(FakeBackend):
    """Implements `Backend`: every completion, description and device name is the hostile text."""

    says = ""

    def capability(self) -> Capability:
        return Capability(True, f"a device {self.says}")

    def load(self, config: Any, trainable: bool) -> FakePolicy:
        policy = FakePolicy()
        policy.description = f"model {self.says}"
        ids = (*policy.tokenizer.encode(self.says or "x"), STOP)

        def generate(requests: Sequence[RolloutRequest], *_: Any, **__: Any) -> Iterator[Rollout]:
            for request in requests:
                yield Rollout(request, ids, np.zeros(len(ids), np.float32), "stop")

        policy.generate = generate  # type: ignore[method-assign]
        return policy


@contextlib.contextmanager
def captured() -> Iterator[Callable[[], tuple[str, str]]]:
    """Capture standard output and error; the call given has their texts, at the end."""
    buffers = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(buffer, encoding="utf-8", newline="") for buffer in buffers)

    def texts() -> tuple[str, str]:
        out.flush()
        err.flush()
        return buffers[0].getvalue().decode(), buffers[1].getvalue().decode()

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield texts


def typed(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; gives its code, standard output and standard error."""
    code = 0
    with mock.patch.object(sys, "argv", ["opsd", *arguments]), captured() as texts:
        try:
            command()
        except SystemExit as left:
            code = int(left.code or 0)
    return code, *texts()


def _file_name(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub("[/\x00,]", "", text)[:60] or "x"


def _write(folder: Path, name: str, text: str) -> str:
    rows = [
        {"question": f"{text} {n}", "solution": f"{text} \\boxed{{{n}}}", "answer": f"{n + 1}"}
        for n in range(24)
    ]
    rows += [{"question": f"{text} 0", "solution": text, "answer": text or "7"}]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def sample_question(folder: Path, text: str) -> list[tuple[int, str, str]]:
    return [typed("sample", "--n", "2", "--show-prompts", "--", text)]


def sample_divergence(folder: Path, text: str) -> list[tuple[int, str, str]]:
    return [typed("sample", "--divergence", "--solution", text, "--", text)]


def sample_file(folder: Path, text: str) -> list[tuple[int, str, str]]:
    name = _write(folder, f"{_file_name(text)}.jsonl", text)
    return [typed("sample", "--file", name, "--limit", "2", "--set", "data.columns.id=solution")]


def evaluate(folder: Path, text: str) -> list[tuple[int, str, str]]:
    name = _write(folder, f"{_file_name(text)}.jsonl", text)
    out = f"out {_file_name(text)}"
    return [
        typed("eval", "--benchmark", name, "--out", out, "--samples", "2"),
        typed("eval", "--benchmark", name, "--out", out, "--regrade", "--against", out),
        typed("eval", "--benchmark", name, "--dry-run"),
    ]


def train_and_compare(folder: Path, text: str) -> list[tuple[int, str, str]]:
    name = _write(folder, f"{_file_name(text)}.jsonl", text)
    runs = [f"{_file_name(text)} {seed}" for seed in (0, 0.5)]
    with mock.patch("opsd_cli.reports.comparison_pages.page_samples", lambda *_: {}):
        return [
            *(typed("train", "--out", r, "--set", f"data.train={name}", *QUICK) for r in runs),
            typed("train", "--out", runs[0], "--set", f"data.train={name}"),
            typed("train", "--dry-run", "--set", f"data.train={name}", *QUICK),
            typed("compare", "--out", f"c {_file_name(text)}", "--", *runs),
            typed("export", runs[0], "--out", runs[1]),
        ]


def mistakes(folder: Path, text: str) -> list[tuple[int, str, str]]:
    """Errors that quote a wrong argument or file."""
    name = _file_name(text)
    (folder / f"{name}.yaml").write_text(json.dumps({text: {text: 1}}), encoding="utf-8")
    (folder / f"{name}.csv").write_text(f"{text}\nx\n", encoding="utf-8")
    return [
        typed(f"c{text}"),
        typed("train", f"--x{text}"),
        typed("train", "--config", text),
        typed("train", "--config", f"{name}.yaml"),
        typed("train", "--set", text),
        typed("train", "--set", f"{text}=1"),
        typed("train", "--set", f"divergence.kind={json.dumps(text)}"),
        typed("train", "--set", f"data.train={text}"),
        typed("train", "--set", f"data.train={name}.csv"),
        typed("eval", "--benchmark", text),
        typed("eval", "--benchmark", f"{name}.yaml"),
        typed("eval", "--resume", "--out", text),
        typed("train", "--resume", "--out", text),
        typed("compare", "--methods", f"{text},opsd"),
        typed("compare", "--", text, text),
        typed("data", "show", "--", text),
        typed("presets", "show", "--", text),
        typed("presets", "copy", "embedded", "--", f"{name}.copy"),
        typed("export", "--", text),
        typed("sample", "--from", text),
        typed("sample", "--model", text),
    ]


def about_the_machine(folder: Path, text: str) -> list[tuple[int, str, str]]:
    return [typed("doctor"), typed("data"), typed("presets"), typed("data", "show", "aime24")]


def listeners(folder: Path, text: str) -> list[tuple[int, str, str]]:
    """The progress panel, and the plain lines that replace it without a terminal."""
    from opsd_cli.cli.listeners import watched
    from opsd_cli.tracking.listener import Listener

    def work(listener: Listener) -> None:
        listener.phase(text, 3)
        listener.advance()
        listener.note(text)
        listener.warn(text)

    with captured() as texts:
        out = Output()
        watched(out, work)
        out.show(text, text)
        out.exact(text)
        with out.working(text):
            pass
    return [(0, *texts())]


PATHS: dict[str, Callable[[Path, str], list[tuple[int, str, str]]]] = {
    "sample, prompts": sample_question,
    "sample --divergence": sample_divergence,
    "sample --file": sample_file,
    "eval, regrade, against": evaluate,
    "train, compare, export": train_and_compare,
    "mistakes": mistakes,
    "doctor, data, presets": about_the_machine,
    "live panel, lines": listeners,
}


@contextlib.contextmanager
def stage(text: str, colours: bool) -> Iterator[Path]:
    """An empty working directory, the hostile backend, and a terminal of 80 columns or none."""
    before = os.getcwd()
    environment = {"COLUMNS": "80", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    if colours:
        environment["FORCE_COLOR"] = "1"
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR",)}
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, kept | environment, clear=True),
        mock.patch.dict(backends.BACKENDS, {"cpu": "tests.fuzz.terminal:Hostile"}),
        mock.patch("tests.fuzz.terminal.Hostile.says", text),
    ):
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def run_case(path: str, text: str, colours: bool) -> None:
    """Print one hostile text in one way.

    Raises:
        Wrong: some of it reached the terminal, or an error was not foreseen.
    """
    with stage(text, colours) as folder:
        printed = PATHS[path](folder, text)
    allowed: set[str] = set()
    if colours:
        with stage("harmless", True) as folder:
            harmless = PATHS[path](folder, "harmless")
        allowed = {s for _, *texts in harmless for t in texts for s in _SEQUENCE.findall(t)}

    def ours(sequence: str) -> bool:
        return sequence in allowed or (colours and _USUAL.fullmatch(sequence) is not None)

    for code, *texts in printed:
        for said in texts:
            rest = _SEQUENCE.sub(lambda m: "" if ours(m[0]) else m[0], said)
            if found := _FORBIDDEN.search(rest):
                around = rest[max(0, found.start() - 40) : found.end() + 20]
                raise Wrong(f"{path}: {text!r} got through as {around!r}")
            if found := _EMOJI.search(rest):
                raise Wrong(f"{path}: {text!r} is printed with {found[0]}")
            if "error: unexpected " in rest and "unexpected extra" not in rest:
                raise Wrong(f"{path}: {text!r} ends in (code {code}) {rest[-600:]!r}")
            if "Traceback" in rest:
                raise Wrong(f"{path}: {text!r}: {rest[-900:]}")


def require_exact(text: str) -> None:
    """Check that prompts are printed exactly but for escapes, and `--json` has the very text.

    Raises:
        Wrong: it has another.
    """
    with stage(text, False):
        _, out, err = typed("sample", "--show-prompts", "--json", "--", text)
        found = json.loads(out)
        completion, prompt = found["completions"][0]["completion"], found["prompts"][0]["student"]
        if completion not in (text, f"{text or 'x'}<|im_end|>") or text not in prompt["text"]:
            raise Wrong(f"--json has {completion!r} for {text!r}")
        if _FORBIDDEN.search(out):
            raise Wrong(f"--json sends the terminal {out!r}")
        for where in (err, typed("sample", "--show-prompts", "--", text)[1]):
            if visible(prompt["text"]) not in where:
                raise Wrong(f"the prompt of {text!r} is not printed exactly")


def in_short() -> list[str]:
    """All hostile strings, joined into two texts."""
    joined = "|".join(hostile_text.CONTROL).replace("\x00", "\x01")
    return [joined, " ".join((*hostile_text.BIDI, *hostile_text.MARKUP))]


def texts(cases: int, seed: int) -> list[str]:
    """Each hostile string alone, then random ones."""
    alone = [*hostile_text.CONTROL, *hostile_text.BIDI, *hostile_text.MARKUP]
    rng = random.Random(seed)
    rng.shuffle(alone)
    drawn = [hostile_text.text(rng) for _ in range(max(0, cases - len(alone)))]
    # No argument can hold a NUL; an empty question has a test of its own.
    found = [text.replace("\x00", "\x01") for text in (alone + drawn)[:cases]]
    return [text if text.strip() else f"{text}x" for text in found]


def run_all(cases: int, seed: int) -> dict[str, Counter[str]]:
    """Outcomes counted by way of printing; wrong ones are printed."""
    table: dict[str, Counter[str]] = {}
    for path in PATHS:
        found: Counter[str] = Counter()
        for number, text in enumerate(texts(cases, seed)):
            try:
                run_case(path, text, colours=bool(number % 2))
                found["held"] += 1
            except Wrong as wrong:
                found["wrong"] += 1
                print(wrong)
        table[path] = found
    exact: Counter[str] = Counter()
    for text in texts(cases, seed):
        try:
            require_exact(text)
            exact["held"] += 1
        except Wrong as wrong:
            exact["wrong"] += 1
            print(wrong)
    return {**table, "exact prompts and --json": exact}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=50, help="texts, each along every way")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    table = run_all(given.cases, given.seed)
    print("\n| printed by | texts tried | nothing obeyed | got through or unexpected |")
    print("|---|---|---|---|")
    for path, found in table.items():
        print(f"| {path} | {found.total()} | {found['held']} | {found['wrong']} |")


if __name__ == "__main__":
    main()
