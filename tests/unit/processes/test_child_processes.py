"""Child processes end with their parent, and import the packages of this project."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import opsd_cli
from opsd_cli.processes import child_processes
from tests.support.processes import gone

ROOT = Path(opsd_cli.__file__).resolve().parents[1]

#: Starts a child with the code in argv[1], prints its first line, and runs the code in argv[2].
PARENT = """
import os, signal, subprocess, sys
from opsd_cli.processes.child_processes import package_environment, tied
child = subprocess.Popen(
    [sys.executable, "-P", "-c", sys.argv[1]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    **tied(package_environment()),
)
print(child.pid, child.stdout.readline().decode(), flush=True)
exec(sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""
#: Never ends by itself.
CHILD = """
import signal, threading
from opsd_cli.processes import child_processes
child_processes.watch_parent()
print("ready", flush=True)
threading.Event().wait()
"""


def orphaned(child: str, parent: str = "") -> int:
    """Process id of a child whose parent was killed once the child had printed "ready"."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT, child, parent],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    pid, said = done.stdout.split()
    assert said == "ready"
    return int(pid)


def test_child_process_ends_with_its_killed_parent() -> None:
    assert gone(orphaned(CHILD))


def test_child_process_that_ignores_sigterm_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    watch = "child_processes.watch_parent()"
    assert gone(
        orphaned(deaf + CHILD.replace(watch, f"child_processes.GRACE_SECONDS = 0\n{watch}"))
    )


def test_child_process_gets_sigterm_before_it_is_killed(tmp_path: Path) -> None:
    """The child waits in a call that a signal interrupts."""
    kept = tmp_path / "kept"
    asked = (
        "import signal, pathlib, os\n"
        f"def save(*_): pathlib.Path({str(kept)!r}).touch(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
    )
    assert gone(orphaned(asked + CHILD.replace("threading.Event().wait()", "signal.pause()")))
    assert kept.exists()


def test_child_process_ends_though_a_fork_of_its_parent_lives(tmp_path: Path) -> None:
    forked = tmp_path / "forked"
    fork = (
        f"fork = os.fork()\nif fork: open({str(forked)!r}, 'w').write(str(fork))\n"
        "else: os.close(1); signal.pause()"
    )
    try:
        assert gone(orphaned(CHILD, fork))
    finally:
        os.kill(int(forked.read_text()), signal.SIGKILL)


def test_grading_worker_ends_with_its_parent() -> None:
    """Long before the alarm that ends a worker that cannot watch its parent."""
    child = """
import json, os, sys, threading, types
stub = types.ModuleType("opsd_cli.grading.compare")
def compare(gold, answer):
    if answer == "forever":
        os.write(said, b"ready\\n")
        threading.Event().wait()
    return "correct"
stub.compare = compare
sys.modules["opsd_cli.grading.compare"] = stub
from opsd_cli.grading import worker
said = os.dup(1)
read, write = os.pipe()
os.dup2(read, 0)
os.write(write, json.dumps({"gold": "1", "answer": "forever", "seconds": 1e6}).encode() + b"\\n")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
worker.WARM_UP = ()
worker.main()
"""
    assert gone(orphaned(child))


GUARDED = """
import os, signal, subprocess, sys
from opsd_cli.processes import guard
from opsd_cli.processes.child_processes import tied
program = "sleep 100000 & echo $!; echo $$; " + sys.argv[1]
guarded = subprocess.Popen(
    [sys.executable, "-I", guard.__file__, "sh", "-c", program],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, **tied(os.environ),
)
print(guarded.pid, *[int(guarded.stdout.readline()) for _ in range(2)], flush=True)
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("program", "then"),
    [
        ("exec sleep 100000", "os.kill(os.getpid(), signal.SIGKILL)"),  # we are killed
        ("exec sleep 0", "guarded.wait()"),  # the program ends by itself
        ("exec sleep 100000", "os.killpg(guarded.pid, signal.SIGTERM); guarded.wait()"),
    ],
)
def test_guarded_program_ends_with_its_descendants(program: str, then: str) -> None:
    """For example a vLLM server, whose engines are processes of their own."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, program, then],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3 and all(gone(pid) for pid in pids)


def test_every_started_python_has_safe_path() -> None:
    found = 0
    for path in [*(ROOT / "opsd_cli").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple) and node.elts:
                first, *rest = (ast.unparse(element) for element in node.elts)
                if first == "sys.executable":
                    found += 1
                    assert rest and rest[0] in ("'-P'", "'-I'"), f"{path}:{node.lineno}"
    assert found >= 3


# -- a foreign package named `backends` ------------------------------------------------------------


def version(folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *options, "-m", "opsd_cli", "--version"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["backends.py", "backends/__init__.py"])
def test_foreign_backends_package_is_refused_in_a_line(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("raise SystemExit('imported')\n")
    code, said = version(tmp_path)
    assert code == 2 and said.count("\n") == 2, said
    assert said.startswith("error: another package 'backends' would be imported in place of")
    assert f"{tmp_path / file}".removesuffix("/__init__.py") in said and "hint: run `opsd`" in said
    assert version(tmp_path, "-P")[0] == 0
    first = os.pathsep.join([str(tmp_path), str(ROOT)])
    code, said = version(ROOT.parent, "-P", PYTHONPATH=first)
    assert code == 2 and f"PYTHONPATH names {tmp_path}, take it out" in said


def test_foreign_backends_folder_without_modules_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "backends").mkdir()
    assert version(tmp_path)[0] == 0


def test_foreign_backends_that_overwrote_an_installation_is_refused(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    for name in ("opsd_cli", "backends"):
        shutil.copytree(
            ROOT / name, installed / name,
            ignore=shutil.ignore_patterns("__pycache__", "model"),
        )  # fmt: skip
    assert version(tmp_path, "-P", PYTHONPATH=str(installed))[0] == 0
    (installed / "backends" / "__init__.py").write_text("")
    code, said = version(tmp_path, "-P", PYTHONPATH=str(installed))
    assert code == 2 and "another distribution has put its package 'backends'" in said
    shutil.rmtree(installed / "backends")
    code, said = version(tmp_path, "-P", PYTHONPATH=str(installed))
    assert code == 2 and "backends" in said


def test_package_environment_puts_the_package_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    environment = child_processes.package_environment()
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "elsewhere"]
