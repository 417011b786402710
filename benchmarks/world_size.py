"""Whether a run depends on the number of processes: every method on 1, 2 and 4 ranks.

    python benchmarks/world_size.py [--sizes 1,2,4] [--steps 4] [--method hybrid] [--case CASE]

The embedded model is trained on a CPU with `train.reduce=exact`, for each method and teacher: 33
questions a step (which no number of ranks divides), 3 (which leave a rank of four without any), and
33 with dropout. Printed: the first digits of the SHA-256 of the adapter, of the metrics and the
ledger without clock and memory, and of the rollouts; and whether they are equal. It exits with 1
where they are not, and where two teachers of a method train the same adapter: such a row proves
nothing about the teacher. Times are not measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import backends
from backends.parallel.control import Workers
from backends.parallel.ranks import loaded_on_all, opened
from benchmarks.measuring import parser
from opsd_cli.config.resolve import resolve
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.problems.sources import load_splits
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train

METHODS = (
    ("opsd", "initial"), ("opsd", "ema"), ("grpo", "initial"), ("hybrid", "initial"),
    ("hybrid", "ema"), ("sft", "initial"),
)  # fmt: skip
#: name -> questions a step, and LoRA's dropout.
CASES = {"33 questions": (33, 0.0), "3 questions": (3, 0.0), "33, dropout": (33, 0.1)}
#: Rollouts a question, where it is not 2. A group whose rewards are equal asks no teacher, and of
#: three groups of two all are so too often. Teachers differ from the second step on; with these
#: groups one is first asked after it with 4 steps.
GROUPS = {("hybrid", "3 questions"): 8}
#: Keys of metrics that the clock or the machine decides.
MASKED = ("seconds", "cpu_seconds", "tokens_per_second", "memory_peak")


def digests(
    folder: Path, method: str, teacher: str, case: str, steps: int, workers: Workers | None
) -> tuple[str, str, str]:
    """Digests of adapter, metrics and rollouts of a run in this folder."""
    questions, dropout = CASES[case]
    config = resolve(
        None,
        [
            "backend=cpu", f"method={method}", f"teacher.weights={teacher}", "train.reduce=exact",
            f"train.steps={steps}", f"train.questions_per_step={questions}",
            f"lora.dropout={dropout}", f"rollouts.per_question={GROUPS.get((method, case), 2)}",
            "preflight.enabled=false",
            "data.test_problems=4", "data.validation_problems=4", "train.evaluate_every=100",
        ],
    )  # fmt: skip
    backend = backends.get("cpu")
    with (
        loaded_on_all(config, True, workers, lambda: backend.load(config, True)) as policy,
        Run.create(folder, config, {}) as run,
    ):
        train(policy, load_splits(config), run)
    rows: list[dict[str, Any]] = list(read_rows(folder / "metrics.jsonl"))
    for row in rows:
        for key in MASKED:
            row.pop(key, None)
    weights = folder / f"checkpoints/step-{steps:06}" / "adapter_model.safetensors"
    return (
        digest(weights.read_bytes()),
        digest(json.dumps(rows, sort_keys=True).encode()),
        digest((folder / "rollouts.jsonl").read_bytes()),
    )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:10]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", default="1,2,4", help="numbers of ranks (1,2,4)")
    arguments.add_argument("--steps", type=int, default=4, help="of each run (4)")
    arguments.add_argument("--method", help="only the rows of this method")
    arguments.add_argument("--case", choices=tuple(CASES), help="only the rows of this case")
    given = arguments.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    different = 0
    adapters: dict[tuple[str, str], set[str]] = {}
    print("| method | teacher | case | adapter | metrics, ledger | rollouts | equal on |")
    print("|---|---|---|---|---|---|---|")
    with contextlib.ExitStack() as stack:
        workers = {size: stack.enter_context(opened(size)) for size in sizes}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for method, teacher in METHODS:
            for case in CASES:
                if given.method not in (None, method) or given.case not in (None, case):
                    continue
                found = [
                    digests(
                        folder / f"{method}-{teacher}-{case}-{size}", method, teacher, case,
                        given.steps, workers[size],
                    )
                    for size in sizes
                ]  # fmt: skip
                equal = all(each == found[0] for each in found)
                different += not equal
                others = adapters.setdefault((method, case), set())
                different += (alike := found[0][0] in others)
                others.add(found[0][0])
                where = given.sizes.replace(",", ", ") if equal else f"NOT EQUAL: {found}"
                where += "; THE TEACHER HAS NO EFFECT" * alike
                print(f"| {method} | {teacher} | {case} | {' | '.join(found[0])} | {where} |")
                sys.stdout.flush()
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
