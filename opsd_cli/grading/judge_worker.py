"""The worker process of graders that run a user's code: a function, unit tests, or a command.

`python -m opsd_cli.grading.judge_worker SETTINGS`, with the settings as a JSON object, reads one
JSON object a line, {"problem", "completion", "limit", "seconds"}, and writes one each: a status
and what else the judge gives (`opsd_cli.grading.judgements.reply_of`). The first line is "ready",
or "refused" with a message and a hint.

The safety measures are those of `opsd_cli.grading.worker`: nothing that a function prints is taken
for a reply, memory is limited, and the process with all it has started ends with its parent. A
process that a function forked and that returns into the loop here ends at once: two would answer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from opsd_cli.grading.interface import GradedProblem
from opsd_cli.grading.judgements import Refused, reason_of
from opsd_cli.grading.worker import ORPHAN_SECONDS, limit_memory, set_alarm, take_pipes
from opsd_cli.lazy import load
from opsd_cli.processes.child_processes import watch_parent

Judge = Callable[[GradedProblem, str, float], dict[str, Any]]
"""Gives the reply to a problem, a completion and a number of seconds."""

#: What is judged by -> "module:function" that makes a judge of the settings.
JUDGES = {
    "code": "opsd_cli.grading.unit_tests:judge_of",
    "command": "opsd_cli.grading.user_commands:judge_of",
    "function": "opsd_cli.grading.user_functions:judge_of",
}


def end_with_children() -> None:
    """Kill this process and, where it leads its process group, all that it has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Answer requests until standard input ends."""
    settings: Mapping[str, Any] = json.loads(sys.argv[1])
    requests, replies = take_pipes()
    worker = os.getpid()

    def send(message: Mapping[str, Any]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    watch_parent(end_with_children)
    limit_memory(settings["memory"])
    try:
        judge: Judge = load(JUDGES[settings["kind"]])(settings)
    except Refused as refused:
        send({"status": "refused", "message": refused.message, "hint": refused.hint})
        return
    send({"status": "ready"})
    os.dup2(1, 2)  # from here on standard error is discarded
    for line in requests:
        request = json.loads(line)
        set_alarm(request["seconds"] + ORPHAN_SECONDS)
        try:
            problem = GradedProblem(**request["problem"])
            reply = judge(problem, request["completion"], request["limit"])
        except MemoryError as error:
            # The state of the process is unknown after a failed allocation.
            reply = {"status": "crashed", "reason": reason_of(error, settings), "last": True}
        except BaseException as error:  # SystemExit too: the completion is what failed
            reply = {"status": "crashed", "reason": reason_of(error, settings)}
        if os.getpid() != worker:
            os._exit(0)
        set_alarm(0)
        send(reply)


if __name__ == "__main__":
    main()
