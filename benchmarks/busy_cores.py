"""Several training processes at once on the same cores, with idle threads spinning or asleep.

    python benchmarks/busy_cores.py [--processes 2] [--rounds 2]

Each process makes OPSD steps on a random Qwen3 of 10 million parameters, by the CPU backend and
with as many threads as it chooses. In one form OpenMP's threads spin while they wait, as they do
by default; in the other they sleep, as opsd sets it. The two take turns. Printed: seconds until all
processes have finished, and their CPU seconds together. Linux; PyTorch's OpenMP there is GNU's.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
ROWS, PROMPT, COMPLETION, STEPS = 4, 32, 64, 2


def work(folder: str) -> None:
    """What each process does."""
    from backends import get
    from backends.interface import DivergenceBatch, DivergenceItem
    from opsd_cli.config.resolve import resolve
    from opsd_cli.losses.divergence import DivergenceSpec

    policy = get("cpu").load(resolve(None, [f"model={folder}"]), trainable=True)
    item = DivergenceItem((5,) * PROMPT, (6,) * PROMPT, (7,) * COMPLETION, 1 / ROWS / COMPLETION)
    for _ in range(STEPS):
        policy.accumulate(DivergenceBatch((item,) * ROWS, DivergenceSpec("jsd")))
        policy.apply(1e-4)


def measure(folder: str, processes: int, form: dict[str, str]) -> tuple[float, float]:
    """Seconds, and CPU seconds of all processes."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = kept | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | form
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--work", folder]
    started = [subprocess.Popen(command, env=environment) for _ in range(processes)]
    if any([process.wait() for process in started]):  # a list: all are waited for
        raise SystemExit("a process failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def main() -> None:
    options = parser(__doc__, rounds=2)
    options.add_argument("--processes", type=int, default=2, help="at once (2)")
    options.add_argument("--work", metavar="FOLDER", help="used by the script itself")
    given = options.parse_args()
    if given.work:
        work(given.work)
        return
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        build_qwen3(Path(folder), MODEL, pad_is_end=True)
        for _ in range(given.rounds):
            for form, environment in FORMS.items():
                found[form].append(measure(folder, given.processes, environment))
    print(f"| idle threads | wall, {given.processes} processes | CPU |\n|---|---|---|")
    for form, rows in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {form} | {wall:.1f} s | {cpu:.1f} s |")


if __name__ == "__main__":
    main()
