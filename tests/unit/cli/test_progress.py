"""Progress as people see it: a panel, lines without a terminal, and text while it is decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from backends.interface import RolloutRequest
from opsd_cli.cli import console, listeners
from opsd_cli.cli.compare_output import PlainJobs, progress_table
from opsd_cli.cli.console import SILENT_SECONDS, Output
from opsd_cli.cli.listeners import LiveListener, PlainListener, Quiet, watched
from opsd_cli.cli.streaming import StreamListener, text_so_far
from opsd_cli.comparison.jobs import Job, Progress, progress_file, seconds_left
from opsd_cli.comparison.supervisor import start
from opsd_cli.config.resolve import resolve
from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import (
    GRADIENT,
    ROLLOUTS,
    Decoded,
    EvaluationRow,
    Listener,
    StepRow,
    WorkAhead,
)
from opsd_cli.tracking.published import PROGRESS_FILE, Published, read_published
from tests.support.fake_clock import Seconds
from tests.support.screens import drawn

WIDTHS = (80, 120)
REQUEST = RolloutRequest("chain-12", 0, (5,), 1)


class Bytes:
    """A tokenizer whose tokens are bytes, so that a character may take four of them."""

    control_tokens = ()
    end_of_turn = None

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


def row(step: int, generated: int = 940) -> StepRow:
    return StepRow(
        step=step, steps=2000, loss=0.2012, grad_norm=1.0, learning_rate=1e-5, reward=0.25,
        metrics={"divergence": 0.2, "entropy": 1.9},
        ledger=TokenLedger(generated=generated, teacher_scored=generated, trained=generated),
        seconds=36_000.0, cpu_seconds=1.0, tokens_per_second=1234.5, memory_peak=99 * 2**30,
    )  # fmt: skip


def validation(accuracy: float) -> EvaluationRow:
    return EvaluationRow(
        step=1, split="validation", accuracy=Estimate(accuracy, 0.1, 0.9), truncated=0.0,
        no_answer=0.0, mean_tokens=9.0, generated=0, best=False, ledger=TokenLedger(),
        training_cpu_seconds=0.0, problems="x", correct=(1.0,),
    )  # fmt: skip


def long_run(listener: listeners.PacedListener, clock: Seconds) -> None:
    """The widest numbers that a run of days may show."""
    for name in ("validation", ROLLOUTS):
        listener.ahead(WorkAhead(1998, 1999, 40_000, 38_912))
        listener.phase(name, 2048)
        listener.decoding(Decoded(0, 2048 * 38_912, 2048, 0, 0))
        for second in range(1, 13):
            clock.now += 1
            tokens = 900_000 * second
            listener.decoding(Decoded(tokens, 2048 * 38_912, 2048, 90 * second, second))
            listener.advance(90)


@pytest.mark.parametrize("width", WIDTHS)
def test_panel_of_a_long_run_is_whole_at_every_width(width: int) -> None:
    clock = Seconds()
    listener = LiveListener(Output(quiet=True), clock)
    long_run(listener, clock)
    before = drawn(listener.panel(), width)
    assert any("10,800,000/79,691,776 tokens" in line for line in before)
    assert any("1,080/2,048 completions" in line and "tokens/s" in line for line in before)
    for accuracy in (0.123, 0.999, 1.0, 0.5, 0.25, 0.75, 0.999):
        listener.evaluation(validation(accuracy))
    listener.phase(GRADIENT, 8)
    listener.learning(0, 10_000_000)
    clock.now += 100
    listener.step(row(1, 987_654_321))
    long_run(listener, clock)
    lines = drawn(listener.panel(), width)
    assert len(lines) == 8 and max(map(cell_len, lines)) <= width
    assert not any("…" in line for line in (*before, *lines))
    assert lines[0].endswith("1/2000 steps") and lines[1].endswith(" left")


@pytest.mark.parametrize("width", WIDTHS)
def test_panel_names_a_benchmark_file_by_its_last_part(width: int) -> None:
    clock = Seconds()
    listener = LiveListener(Output(quiet=True), clock)
    listener.phase("/somewhere/far/away/leg_counting-test.jsonl", 640)
    listener.decoding(Decoded(0, 640 * 38_912, 640, 0, 0))
    (line, below) = drawn(listener.panel(), width)
    assert line.startswith("leg_counting-test.jsonl ") and line.endswith("0/24,903,680 tokens")
    assert below.endswith("0/640 completions  0 s")


def test_panel_clock_ticks_without_any_event() -> None:
    clock = Seconds()
    listener = LiveListener(Output(quiet=True), clock)
    listener.phase(GRADIENT, 1)
    listener.step(row(1))
    listener.phase(GRADIENT, 1)
    first = drawn(listener.panel(), 80)
    clock.now += 61
    second = drawn(listener.panel(), 80)
    assert first[1].strip().startswith("10:00:00")
    assert second[1].strip().startswith("10:01:01")
    assert first[3].startswith(" ") and second[3].strip().startswith("1:01")


def test_lines_without_a_terminal_come_at_least_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Seconds()
    listener = PlainListener(Output(), clock)
    listener.phase("preflight: student", 4)
    listener.decoding(Decoded(0, 400, 4, 0, 0))
    for second in range(1, 71):
        clock.now += 1
        listener.decoding(Decoded(3 * second, 400, 4, 0, 0))
        listener.tick()
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.splitlines() == [
        "preflight: student: 90/400 tokens, 0/4 completions, 3.0 tokens/s, 30 s",
        "preflight: student: 180/400 tokens, 0/4 completions, 3.0 tokens/s, 1:00, "
        "at most 1:13 left",
    ]
    listener.note("another line")  # counts as one
    clock.now += SILENT_SECONDS - 1
    listener.tick()
    assert capsys.readouterr().err == "another line\n"
    listener.phase(GRADIENT, 1)
    clock.now += 1
    listener.tick()  # also where no event came at all
    assert capsys.readouterr().err == "gradient: 0/1, 1 s\n"


def test_lines_of_a_run_name_its_step_and_the_time_left_of_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Seconds()
    listener = PlainListener(Output(), clock)
    listener.ahead(WorkAhead(completions=64, completion_tokens=100))
    listener.phase("aime24", 16)
    listener.decoding(Decoded(0, 1600, 16, 0, 0))
    for second in range(1, 13):
        clock.now += 1
        listener.decoding(Decoded(100 * second, 1600, 16, second, 0))
        listener.advance()
    clock.now += 18
    listener.tick()
    line = capsys.readouterr().err
    assert line.endswith("; all: at most 1:15 left\n")
    listener.step(row(2000))
    clock.now += 60
    listener.tick()
    assert "; step 2000/2000, run 10:01:00" in capsys.readouterr().err


@pytest.mark.parametrize(("json", "quiet"), [(False, False), (True, False), (False, True)])
def test_progress_off_a_terminal_is_ticked_on_standard_error_alone(
    json: bool, quiet: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(listeners, "SILENT_SECONDS", 0.0)
    told = threading.Event()
    note = Output.note
    said = lambda self, text: (note(self, text), "validation" in text and told.set())[0]  # noqa: E731
    monkeypatch.setattr(Output, "note", said)

    def work(listener: Listener) -> bool:
        listener.phase("validation", 3)
        return told.wait(0.2 if quiet else 10)

    assert watched(Output(json, quiet), work) is not quiet
    caught = capsys.readouterr()
    assert caught.out == ""
    assert ("validation: 0/3, 0 s" in caught.err) is not quiet


def test_loading_off_a_terminal_is_ticked_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SILENT_SECONDS", 0.001)
    told = threading.Event()
    note = Output.note
    monkeypatch.setattr(Output, "note", lambda self, text: (note(self, text), told.set())[0])
    with Output().working("loading the model"):
        assert told.wait(10)
    assert "loading the model, 0 s" in capsys.readouterr().err


# -- text while it is decoded ------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Grüße 🦙!", "答えは四十二です", "a\nb"])
def test_streamed_text_holds_whole_characters_alone(text: str) -> None:
    ids = list(text.encode())
    shown = [text_so_far(ids[:count], Bytes(), ()) for count in range(len(ids) + 1)]
    assert all(text.startswith(part) for part in shown)
    assert set(shown) == {text[:count] for count in range(len(text) + 1)}
    tails = [text_so_far(ids, Bytes(), (), most) for most in range(1, len(ids) + 1)]
    assert all(text.endswith(part) for part in tails) and tails[-1] == text


def test_streamed_text_leaves_out_the_stop_token() -> None:
    assert text_so_far([*b"42", 0], Bytes(), {0}) == "42"


@pytest.fixture
def stream() -> Callable[[int], StreamListener]:
    def listener(completions: int) -> StreamListener:
        made = StreamListener(Output(quiet=True), Bytes(), ())
        made.phase("sampling", completions)
        return made

    return listener


@pytest.mark.parametrize("width", WIDTHS)
def test_streamed_completion_ends_the_screen(
    stream: Callable[[int], StreamListener], width: int
) -> None:
    listener = stream(1)
    words = " ".join(f"word{number}" for number in range(300))
    listener.unfinished([(REQUEST, list(words.encode()))])
    lines = drawn(listener.panel(), width, height=20)
    assert len(lines) <= 17 and lines[-1].endswith("word299")
    assert max(map(cell_len, lines)) <= width
    listener.unfinished([(REQUEST, list(b"\x1b[31mred"))])
    assert not any("\x1b" in line for line in drawn(listener.panel(), width))


@pytest.mark.parametrize("width", WIDTHS)
def test_streamed_completions_have_a_line_each(
    stream: Callable[[int], StreamListener], width: int
) -> None:
    listener = stream(3)
    texts = ("short", "long 答え " * 60 + "end", "two\nlines")
    listener.unfinished(
        [(RolloutRequest(f"p{n}", n, (5,), 1), list(text.encode())) for n, text in enumerate(texts)]
    )
    lines = drawn(listener.panel(), width)[-3:]
    assert lines[0] == "p0, completion 1: short"
    assert lines[1].startswith("p1, completion 2: ") and lines[1].endswith(" end")
    assert lines[2] == "p2, completion 3: two lines"
    assert max(map(cell_len, lines)) <= width


# -- compare -----------------------------------------------------------------------------------


def jobs() -> list[Progress]:
    config = resolve(None, [], {})
    now = Published("rollouts", 3, 64, 1234, 65_536, 142.0, 151.0, 250.0, False)
    return [
        Progress(Job("opsd-s0", "opsd", config), "done", 128, 0.5, 100, 100.0),
        Progress(Job("grpo-s0", "grpo", config), "running", 5, 0.4, 90, 100.0, now),
        Progress(Job("opsd-s1", "opsd", config), "waiting"),
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_comparison_shows_what_its_runs_are_doing(width: int) -> None:
    lines = drawn(progress_table(jobs(), 1), width)
    assert lines[-2] == ("grpo-s0: rollouts 1,234/65,536 tokens, 142 tokens/s, about 4:10 left")
    assert lines[-1] == "3 runs: about 5:50 left"
    assert "2:31" in lines[2] and max(map(cell_len, lines)) <= width


def test_comparison_without_a_terminal_tells_of_its_runs_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Seconds()
    watch = PlainJobs(Output(), 1, clock)
    for _ in range(60):
        watch(jobs())
        clock.now += 1
    err = capsys.readouterr().err
    assert err.count("opsd-s0: test accuracy 50.0% at its last step, after 100 gen") == 1
    assert err.count("grpo-s0: rollouts 1,234/65,536 tokens") == 1
    assert err.count("3 runs: about 5:50 left") == 1


def test_comparison_time_left_is_unknown_while_a_run_of_its_method_is() -> None:
    done, running, waiting = jobs()
    assert seconds_left([running, waiting], 1) is None  # no run of opsd has finished
    assert seconds_left([done, running, waiting], 2) == 175.0
    assert seconds_left([done], 1) == 0.0


def test_comparison_gives_each_run_a_progress_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, str] = {}
    monkeypatch.setattr("subprocess.Popen", lambda command, env, **_: made.update(env))
    job = Job("opsd-s0", "opsd", resolve(None, [], {}))
    path = progress_file(tmp_path / job.name)
    path.write_text("{}")  # of a run that was killed
    start(tmp_path, job, 1)
    assert not path.exists() and made[PROGRESS_FILE] == str(path)
    monkeypatch.setenv(PROGRESS_FILE, made[PROGRESS_FILE])
    quiet = Quiet(Output(quiet=True), Seconds())
    quiet.phase("validation", 4)
    quiet.tick()
    now = read_published(path)
    assert now is not None and (now.phase, now.done, now.total) == ("validation", 0, 4)
    monkeypatch.setattr(listeners, "TICK_SECONDS", 0.001)
    path.unlink()

    def work(listener: Listener) -> bool:
        listener.phase("rollouts", 4)
        for _ in range(1000):  # ten seconds at most
            found = read_published(path)
            if found is not None and found.phase == "rollouts":
                return True
            threading.Event().wait(0.01)
        return False

    assert watched(Output(quiet=True), work)
    assert not path.exists()
