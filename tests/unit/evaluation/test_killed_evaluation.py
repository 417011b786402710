"""An evaluation killed ten times in a row ends as one that never was."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.support.killable_commands import Kill, KillableCommand, contents

KILLS = 10


def test_eval_resume_after_ten_kills_is_the_same_evaluation(tmp_path: Path) -> None:
    command = KillableCommand(tmp_path, "eval", more="--samples 20")
    killed = command.prepared("killed")
    samples = killed / "out" / "samples.jsonl"
    grown = set()
    for number in range(KILLS):
        # After the first samples of each call were kept, and long before the last of all.
        kill = Kill("eval:out", 100 + 7 * number, signal.SIGKILL, torn=number / KILLS)
        done = command.run(killed, command.next_words(killed), kill)
        assert done.returncode == -signal.SIGKILL, done.stderr
        grown.add(len(samples.read_bytes()))
    assert len(grown) == KILLS
    assert not (killed / "out" / "results.json").exists()
    done = command.run(killed, command.next_words(killed))
    assert done.returncode == 0, done.stderr
    assert contents(killed / "out") == command.expected
