"""One section of a kit, in this process.

python -m benchmarks.proof.child benchmarks.gpu.kit kernel FILE --seconds 60 [--tiny]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from benchmarks.proof.recorder import DONE, SKIPPED, Recorder, reason
from benchmarks.proof.sections import kit_of, missing
from opsd_cli.processes.child_processes import watch_parent


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description="One section of a proof kit.")
    options.add_argument("kit", help="the module that declares it")
    options.add_argument("section")
    options.add_argument("file", type=Path)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--tiny", action="store_true")
    given = options.parse_args(arguments)
    watch_parent()
    section = kit_of(given.kit).section(given.section)
    recorder = Recorder(given.file, given.tiny, given.seconds)
    absent = missing(section.needs)
    if absent:
        recorder.end(f"{SKIPPED}: {absent} is not installed")
        return 0
    module, _, function = section.work.partition(":")
    try:
        getattr(importlib.import_module(module), function)(recorder)
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)
        recorder.end(reason(error))
        return 0
    recorder.end(DONE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
