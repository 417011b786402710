"""Several training processes at once on the same cores, with idle threads spinning or asleep.

    python benchmarks/busy_cores.py [--processes 2] [--rounds 2] [--limit 30]

Each process makes OPSD steps on a random Qwen3 of 8 million parameters, by the CPU backend and
with as many threads as it chooses. In one form OpenMP's threads spin while they wait, as they do
by default; in the other they sleep, as opsd sets it. The two take turns. All processes load the
model and make a step first; the clock starts when all have done so. Printed: seconds until all
processes have finished, and their CPU seconds together. Processes that exceed the limit are ended,
and the table shows the limit as a lower bound. Linux; PyTorch's OpenMP there is GNU's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import ROOT, parser
from benchmarks.random_models import build_qwen3

MODEL = {
    "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": True,
    "eos_token_id": 0,
}  # fmt: skip
#: GNU OpenMP's own default where no wait policy is set; setting it keeps opsd from setting another.
FORMS = {"spinning, OpenMP's default": {"GOMP_SPINCOUNT": "300000"}, "asleep, as opsd sets it": {}}
#: Variables that are not passed on. MKL_NUM_THREADS=1 gives PyTorch a single thread, which never
#: waits for another.
THREADING = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")
ROWS, PROMPT, COMPLETION, STEPS = 2, 16, 32, 3

#: Seconds and CPU seconds; None stands for more seconds than the limit.
Measured = tuple[float, float] | None


def work(folder: str) -> None:
    """What each process does: load, a step, a line, wait for a line, steps, its CPU seconds."""
    from backends import get
    from backends.interface import DivergenceBatch, DivergenceItem
    from opsd_cli.config.resolve import resolve
    from opsd_cli.losses.divergence import DivergenceSpec

    policy = get("cpu").load(resolve(None, [f"model={folder}"]), trainable=True)
    item = DivergenceItem((5,) * PROMPT, (6,) * PROMPT, (7,) * COMPLETION, 1 / ROWS / COMPLETION)

    def steps(number: int) -> None:
        for _ in range(number):
            policy.accumulate(DivergenceBatch((item,) * ROWS, DivergenceSpec("jsd")))
            policy.apply(1e-4)

    steps(1)
    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    steps(STEPS)
    print(time.process_time() - before, flush=True)


def measure(command: Sequence[str], processes: int, form: dict[str, str], limit: float) -> Measured:
    """Seconds and CPU seconds of several processes of a command that does `work`.

    Args:
        form: environment variables.
        limit: seconds after which the processes are ended.

    Returns:
        Both; None if the limit was exceeded.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(THREADING)}
    environment = kept | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | form
    piped: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:  # closes the pipes and waits, after `kill`
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen(command, env=environment, **piped))
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit("a process failed")
        start = time.perf_counter()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        cpu = 0.0
        for process in started:
            try:
                left = max(0.0, start + limit - time.perf_counter())
                said, _ = process.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                return None
            if process.returncode:
                raise SystemExit("a process failed")
            cpu += float(said)
        return time.perf_counter() - start, cpu


def row(form: str, measured: Sequence[Measured], limit: float) -> str:
    """A line of the table: medians, or the limit as a lower bound if a measurement exceeded it."""
    known = [each for each in measured if each is not None]
    if len(known) < len(measured):
        return f"| {form} | over {limit:g} s | |"
    wall, cpu = (statistics.median(column) for column in zip(*known, strict=True))
    return f"| {form} | {wall:.1f} s | {cpu:.1f} s |"


def main() -> None:
    options = parser(__doc__, rounds=2)
    options.add_argument("--processes", type=int, default=2, help="at once (2)")
    options.add_argument("--limit", type=float, default=30, help="seconds of a measurement (30)")
    options.add_argument("--work", metavar="FOLDER", help="used by the script itself")
    given = options.parse_args()
    if given.work:
        work(given.work)
        return
    found: dict[str, list[Measured]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        build_qwen3(Path(folder), MODEL, pad_is_end=True)
        command = [sys.executable, __file__, "--work", folder]
        for _ in range(given.rounds):
            for form, environment in FORMS.items():
                found[form].append(measure(command, given.processes, environment, given.limit))
    print(f"| idle threads | wall, {given.processes} processes | CPU |\n|---|---|---|")
    for form, rows in found.items():
        print(row(form, rows, given.limit))


if __name__ == "__main__":
    main()
