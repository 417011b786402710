"""Runs one program and its unit tests, in a process of its own; `opsd_cli.grading.unit_tests` has
the limits in words.

`python -m opsd_cli.grading.unit_test_runner` reads {"program", "tests", "cpu", "memory"} from
standard input, and writes a line when it begins, and one for each test: {"passed", "failure"}. The
tests run one after the other in the namespace of the program.
"""

from __future__ import annotations

import ast
import ctypes
import json
import math
import os
import sys
import traceback
from typing import Any

from opsd_cli.grading.judge_worker import end_with_children
from opsd_cli.grading.worker import limit_memory, take_pipes
from opsd_cli.processes.child_processes import watch_parent

#: Bytes of a file that the program may write.
LARGEST_FILE = 64 * 1024**2
#: Characters of a test and of a value that a failure shows.
LONGEST_TEST, LONGEST_VALUE = 400, 200
PROGRAM = "program.py"
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000


def leave_network() -> bool:
    """Give this process a network of its own, without any connection; False where it may not."""
    if sys.platform != "linux":
        return False
    try:
        unshare = ctypes.CDLL(None).unshare
    except (OSError, AttributeError):
        return False
    # As root the second is not needed; other users may do it where the system allows it.
    return any(unshare(flags) == 0 for flags in (_NEW_NETWORK, _NEW_USER | _NEW_NETWORK))


def limit(cpu: float, memory: int) -> None:
    """Limit CPU time, in seconds, address space, in bytes, file size and core dumps."""
    if sys.platform == "win32":
        return
    import resource

    def lower(kind: int, wanted: int) -> None:
        hard = resource.getrlimit(kind)[1]
        least = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(kind, (least, hard))

    lower(resource.RLIMIT_CPU, math.ceil(cpu) + 1)
    lower(resource.RLIMIT_FSIZE, LARGEST_FILE)
    lower(resource.RLIMIT_CORE, 0)
    limit_memory(memory)


def failure_of(test: str, error: BaseException, namespace: dict[str, Any]) -> str:
    """Why a test failed: the test, the exception, and what the left side of a comparison was."""
    test = test.strip()
    shown = test if len(test) <= LONGEST_TEST else f"{test[:LONGEST_TEST]}..."
    lines = str(error).strip().splitlines()
    told = type(error).__name__ + (f": {lines[0][:LONGEST_VALUE]}" if lines else "")
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame.lineno for frame in frames if frame.filename == PROGRAM]
    place = f" in line {inside[-1]} of the program" if inside else ""
    return f"{shown}\n{told}{place}{_left_side(test, error, namespace)}"


def _left_side(test: str, error: BaseException, namespace: dict[str, Any]) -> str:
    if not isinstance(error, AssertionError):
        return ""
    try:
        [statement] = ast.parse(test).body
        assert isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare)
        source = ast.unparse(statement.test.left)
        value = repr(eval(source, namespace))[:LONGEST_VALUE]
    except BaseException:  # the test is not of that form, or the value cannot be had again
        return ""
    return f"; {source[:LONGEST_VALUE]} is {value}"


def main() -> None:
    """Run the program and its tests."""
    requests, replies = take_pipes()
    request = json.loads(requests.read())
    os.dup2(1, 2)
    leave_network()  # before there is a thread, which would forbid it
    watch_parent(end_with_children)
    limit(request["cpu"], request["memory"])

    runner = os.getpid()

    def send(passed: bool, failure: str | None = None) -> None:
        if os.getpid() != runner:  # a process that the program has forked
            os._exit(0)
        replies.write(json.dumps({"passed": passed, "failure": failure}).encode() + b"\n")
        replies.flush()

    send(False)
    # Not "__main__": what a program does as a script is not tested.
    namespace: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(request["program"], PROGRAM, "exec"), namespace)
    except BaseException as error:
        send(False, failure_of("the program itself", error, namespace))
        os._exit(0)
    for test in request["tests"]:
        try:
            exec(compile(test, "test", "exec"), namespace)
        except BaseException as error:
            send(False, failure_of(test, error, namespace))
        else:
            send(True)
    os._exit(0)  # threads that the program started do not hold it up


if __name__ == "__main__":
    main()
