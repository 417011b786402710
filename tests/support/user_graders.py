"""Functions of a user as graders: what they do by the completion, for tests and fuzzers."""

from __future__ import annotations

from pathlib import Path

#: Each completion is the name of what the function does with it.
SCORE = """
import math, os, sys, time

def score(problem, completion):
    if completion == "hang":
        time.sleep(1000)
    if completion == "raise":
        return 1 / 0
    if completion == "memory":
        return bool(bytearray(64 * 2**30))
    if completion == "print":
        print('{"status": "correct"}', flush=True)
        os.write(1, b"noise\\n")
        sys.stderr.write("noise")
        return False
    if completion == "fork":
        return os.fork() == 0
    if completion == "child":
        return str_of_child()
    if completion == "exit":
        os._exit(0)
    if completion == "sys.exit":
        sys.exit("enough")
    if completion == "nan":
        return math.nan
    if completion == "none":
        return None
    if completion == "two":
        return 2
    if completion == "text":
        return "right"
    if completion == "three":
        return 1, "a", "b"
    if completion == "key":
        return {"reward": 1}
    if completion == "mapping":
        return {"score": True, "answer": problem.answer, "feedback": problem.fields["rule"]}
    if completion == "half":
        return 0.5
    if completion == "pair":
        return 0.75, "too long"
    return completion == problem.answer

def str_of_child():
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    return {"score": 1, "answer": str(child.pid)}

def one_argument(completion):
    return True

async def awaited(problem, completion):
    return True

NOT_A_FUNCTION = 3
"""


def write_rules(folder: Path) -> Path:
    """`rules.py` in a folder."""
    path = folder / "rules.py"
    path.write_text(SCORE)
    return path
