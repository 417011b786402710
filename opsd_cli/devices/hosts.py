"""`--hosts FILE`: a command runs itself on several machines by `mlx.launch`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from backends.shared.placement import recognised
from opsd_cli.errors import BackendMissing, UsageError
from opsd_cli.processes.child_processes import OPSD, package_environment

_PROGRAM = "mlx.launch"
#: What mlx.launch says of a process that failed, on standard error.
_ENDED = re.compile(r"Node with rank (\d+) (?:exited with code (-?\d+)|was killed)")


def run_on(file: Path, arguments: Sequence[str]) -> NoReturn:
    """Run `opsd` with these arguments on every host, and exit as rank 0 did.

    Args:
        file: as `mlx.launch --hostfile` and `mlx.distributed_config` have it.
        arguments: those of this command; `--hosts` is taken out.

    Raises:
        UsageError: there is no such file; or a launcher has started this process.
        BackendMissing: mlx is not installed.
    """
    if not file.is_file():
        raise UsageError(f"there is no host file {file}", "mlx.distributed_config writes one")
    if recognised().size > 1:
        raise UsageError(
            f"{recognised().launcher} has started this process already", "leave out --hosts"
        )
    program = shutil.which(_PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(
        _PROGRAM
    )
    if program is None:
        raise BackendMissing(
            f"{_PROGRAM} is not installed, and starts the processes on several Macs",
            "pip install 'opsd-cli[mlx]'",
        )
    command = [program, "--hostfile", str(file), "--", *OPSD, *without_hosts(arguments)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=package_environment()
    )
    assert process.stderr is not None
    code = 0
    for line in process.stderr:
        ended = _ENDED.search(line)
        if ended is None:
            sys.stderr.write(line)
        elif ended[1] == "0" and ended[2]:
            code = int(ended[2])
        elif code == 0:
            code = 1
    sys.exit(process.wait() or code)


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
