"""What several processes cost: a step's CPU time, and the bytes it moves.

    python benchmarks/machinery.py --model FOLDER --train PROBLEMS [--rounds 2] [--bytes]

`opsd train` runs in each form, taking turns, with one thread a process: in one process; under
torchrun with one process; with `train.reduce=exact`, which reads a step's items in 8 units and adds
them up in order; and on two processes with either sum. Printed: the CPU seconds of training of all
processes together, and their ratio to one process in the same round.

`--bytes` counts instead what a step moves over the loopback interface: the difference between runs
of three steps and one, halved. It must run where nothing else uses that interface:

    unshare -rn sh -c 'ip link set lo up && python benchmarks/machinery.py --bytes ...'
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import ROOT, parser

OPSD = (sys.executable, "-m", "opsd_cli")
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1",
    "--master-port", "29411", "-m", "opsd_cli",
)  # fmt: skip
#: name -> the program, its arguments.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "one process": (OPSD, ()),
    "one process of torchrun": (TORCHRUN, ()),
    "one process, exact": (OPSD, ("--set", "train.reduce=exact")),
    "two processes, fast": (OPSD, ("--devices", "2")),
    "two processes, exact": (OPSD, ("--devices", "2", "--set", "train.reduce=exact")),
}
LOOPBACK = "lo"


def trained(form: str, given: argparse.Namespace, steps: int, folder: Path) -> dict[str, float]:
    """Train once; gives the CPU seconds of training, and the adapter's size in bytes."""
    program, more = FORMS[form]
    out = folder / f"{form} {steps} {len(list(folder.iterdir()))}"
    settings = [
        f"model={given.model}", f"data.train={given.train}", "backend=cpu", "train.dtype=float32",
        f"train.steps={steps}", f"train.questions_per_step={given.questions}",
        f"sampling.max_new_tokens={given.tokens}", "train.evaluate_every=1000",
        "train.checkpoint_every=1000", "data.test_problems=1", "data.validation_problems=1",
        "evaluation.max_new_tokens=2", "preflight.enabled=false", "lora.rank=16",
        "train.passes=1",
    ]  # fmt: skip
    words = [*program, "train", "--quiet", "--out", str(out), *more]
    words += [f"--set={setting}" for setting in settings]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result = json.loads((out / "result.json").read_text())
    newest = sorted((out / "checkpoints").iterdir())[-1]
    size = (newest / "adapter_model.safetensors").stat().st_size
    return {"cpu": result["training_cpu_seconds"], "adapter": size}


def cpu_table(given: argparse.Namespace, folder: Path) -> None:
    """Print the CPU seconds of a step in each form, and the ratio to one process."""
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(given.rounds):
        for form in FORMS:
            seconds = trained(form, given, given.steps, folder)["cpu"]
            found[form].append(seconds / given.steps)
    first = found[next(iter(FORMS))]
    print("| form | CPU seconds a step | against one process, round by round | median |")
    print("|---|---|---|---|")
    for form, values in found.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"| {form} | {median(values):.1f} | {each} | {median(ratios):.3f} |")


def bytes_table(given: argparse.Namespace, folder: Path) -> None:
    """Print the bytes that a step moves between two processes, and the adapter's size."""
    print("| form | MB a step and process | adapter, MB | ratio |")
    print("|---|---|---|---|")
    for form in (form for form in FORMS if form.startswith("two")):
        moved, size = {}, 0.0
        for steps in (1, 3):
            before = sent()
            size = trained(form, given, steps, folder)["adapter"]
            moved[steps] = sent() - before
        each = (moved[3] - moved[1]) / 2 / 2
        print(f"| {form} | {each / 1e6:.2f} | {size / 1e6:.2f} | {each / size:.2f} |")


def sent() -> int:
    """Bytes that the loopback interface has sent so far."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == LOOPBACK:
            return int(counters.split()[8])
    sys.exit("there is no loopback interface; bytes are counted on Linux")


def main() -> None:
    options = parser(__doc__, rounds=2)
    options.add_argument("--model", default="embedded", help="a model's folder (embedded)")
    options.add_argument("--train", default="embedded", help="problems with solutions (embedded)")
    options.add_argument("--steps", type=int, default=2, help="of each run (2)")
    options.add_argument("--questions", type=int, default=8, help="a step (8)")
    options.add_argument("--tokens", type=int, default=32, help="of a completion (32)")
    options.add_argument("--bytes", action="store_true", help="count bytes, not CPU time")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (bytes_table if given.bytes else cpu_table)(given, Path(folder))


if __name__ == "__main__":
    main()
