"""`--hosts FILE`: a command runs itself on several machines by `mlx.launch`.

mlx.launch has no way to ask rank 0 to stop: a Ctrl-C that reaches it ends it, and its processes are
left with a broken output. So it leads a session of its own, which the terminal's Ctrl-C does not
reach, and this process tells rank 0 through its standard input, which mlx.launch passes on to every
process, over ssh too. Rank 0 then saves and stops as it does alone, and the others end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from backends.shared.placement import recognised
from backends.traits import install_command
from opsd_cli.devices.launched import STOP, STOP_BY_INPUT
from opsd_cli.errors import BackendMissing, Interrupted, UsageError
from opsd_cli.interruption import signals_handled
from opsd_cli.processes import guard
from opsd_cli.processes.child_processes import OPSD, package_environment, tied

_PROGRAM = "mlx.launch"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What mlx.launch says of a process that failed, on standard error.
_ENDED = re.compile(r"Node with rank (\d+) (?:exited with code (-?\d+)|was killed)")


def run_on(file: Path, arguments: Sequence[str]) -> NoReturn:
    """Run `opsd` with these arguments on every host, and exit as rank 0 did.

    Args:
        file: as `mlx.launch --hostfile` and `mlx.distributed_config` have it.
        arguments: those of this command; `--hosts` is taken out.

    Raises:
        UsageError: there is no such file, or it names no host; or a launcher has started this
            process.
        BackendMissing: mlx is not installed.
    """
    if not file.is_file():
        raise UsageError(f"there is no host file {file}", "mlx.distributed_config writes one")
    if recognised().size > 1:
        raise UsageError(
            f"{recognised().launcher} has started this process already", "leave out --hosts"
        )
    _require_hosts(file)
    program = shutil.which(_PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(
        _PROGRAM
    )
    if program is None:
        raise BackendMissing(
            f"{_PROGRAM} is not installed, and starts the processes on several Macs",
            install_command("mlx"),
        )
    command = [
        program, "--hostfile", str(file), "--env", f"{STOP_BY_INPUT}=1", "--", *OPSD,
        *without_hosts(arguments),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, "--report", *command], stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, **tied(package_environment()),
    )  # fmt: skip
    assert process.stderr is not None
    own, code = Interrupted.exit_code, 0  # kept where the processes are killed by Ctrl-C
    with _stop_told_to(process):
        for line in process.stderr:
            ended = _ENDED.search(line)
            if line.startswith(guard.REPORT):
                own = abs(int(line.removeprefix(guard.REPORT)))
            elif ended is None:
                sys.stderr.write(line)
            elif ended[1] == "0" and ended[2]:
                code = int(ended[2])
            elif code == 0:
                code = 1
        process.wait()
    sys.exit(own or code)


def _require_hosts(file: Path) -> None:
    """Raise `UsageError` unless the file names hosts; mlx.launch starts nothing, and succeeds."""
    hint = "mlx.distributed_config --hosts mac1,mac2 --output-hostfile FILE writes one"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is no host file: {error}", hint) from error
    hosts = found.get("hosts") if isinstance(found, dict) else found
    if not isinstance(hosts, list) or not all(isinstance(h, dict) and "ssh" in h for h in hosts):
        raise UsageError(f"{file} is no list of hosts, each with its name under 'ssh'", hint)
    if not hosts:
        raise UsageError(f"{file} names no host", hint)


@contextlib.contextmanager
def _stop_told_to(process: subprocess.Popen[str]) -> Iterator[None]:
    """Within the block a signal to this process reaches `launched.stop_by_input` of rank 0.

    The third ends the processes: rank 0 may wait for another one where no signal reaches Python.
    """
    told = 0

    def tell(number: int, _: Any) -> None:
        nonlocal told
        told += 1
        if told > 2:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has just ended
            os.write(process.stdin.fileno(), STOP)

    with signals_handled(tell, _SIGNALS):
        yield


def without_hosts(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--hosts FILE`, in both of its spellings."""
    kept: list[str] = []
    skipped = False
    for argument in arguments:
        if skipped:
            skipped = False
        elif argument == "--hosts":
            skipped = True
        elif not argument.startswith("--hosts="):
            kept.append(argument)
    return kept
