"""What people see while prompts are read: on a terminal, in lines, and in a comparison."""

from __future__ import annotations

import pytest

from opsd_cli.cli.compare_output import running_lines
from opsd_cli.cli.console import Output
from opsd_cli.cli.listeners import LiveListener, PlainListener
from opsd_cli.comparison.jobs import Job, Progress
from opsd_cli.config.resolve import resolve
from opsd_cli.tracking.listener import Decoded
from opsd_cli.tracking.published import Published
from tests.support.fake_clock import Seconds
from tests.support.screens import drawn


@pytest.mark.parametrize("width", (80, 120))
def test_prompt_reading_shows_its_tokens_clock_and_time_left(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Seconds()
    listener = PlainListener(Output(), clock)
    live = LiveListener(Output(quiet=True), clock)
    for each in (listener, live):
        each.phase("preflight: teacher", 40)
    for second in range(61):
        for each in (listener, live):
            each.decoding(Decoded(0, 2048, 40, 0, 0, 1000 * second, 91_234, True))
        listener.tick()
        clock.now += second < 60
    (above, below) = drawn(live.panel(), width)
    assert above.startswith("preflight: teacher ")
    assert above.endswith("reading prompts, 60,000/91,234 tokens")
    assert below.strip() == "0/40 completions  1:00  about 31 s of reading left"
    clock.now += 5
    assert drawn(live.panel(), width)[1].endswith("  1:05  about 26 s of reading left")
    assert capsys.readouterr().err.splitlines() == [
        "preflight: teacher: reading prompts, 30,000/91,234 tokens, 0/40 completions, 30 s, "
        "about 1:01 of reading left",
        "preflight: teacher: reading prompts, 60,000/91,234 tokens, 0/40 completions, 1:00, "
        "about 31 s of reading left",
    ]


def test_comparison_says_that_a_run_reads_prompts() -> None:
    now = Published("rollouts", 0, 64, 12, 9000, None, 151.0, None, False, True)
    entry = Progress(
        Job("grpo-s0", "grpo", resolve(None, [], {})), "running", 5, 0.4, 90, 100.0, now
    )
    assert running_lines([entry]) == ["grpo-s0: rollouts, reading prompts 12/9,000 tokens"]
