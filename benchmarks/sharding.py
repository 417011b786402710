"""Memory of a frozen base on each rank: whole (`train.shard=none`) against divided (`full`).

    python benchmarks/sharding.py [--sizes 2,4] [--layers 12] [--hidden 512]

A model of random weights in float32 is loaded on the ranks on a CPU, and trained for two steps.
Printed, in MB: the base's weights that rank 0 keeps; the resident memory of rank 1 when the model
is loaded, less that of a worker without a model; and its peak, which includes reading the model:
every rank maps the whole files, and keeps its part. On a GPU the files are read into the machine's
memory, and the device gets its part of one layer after the other. Times are not measured.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

import backends
from backends.interface import DivergenceBatch, DivergenceItem
from backends.parallel.ranks import loaded_on_all, opened
from benchmarks.measuring import parser
from benchmarks.random_models import build_qwen3
from opsd_cli.config.resolve import resolve
from opsd_cli.losses.divergence import DivergenceSpec

BATCH = DivergenceBatch(
    tuple(DivergenceItem((3, 4, 5), (4, 5, 6, 7), (8, 9) * 8, 0.1) for _ in range(6)),
    DivergenceSpec("jsd", beta=0.5),
)


def measured(folder: Path, size: int, shard: str) -> tuple[float, float, float]:
    """MB of rank 0's base weights, and of rank 1's memory: added by loading, and its peak."""
    from backends.pytorch.sharding import local

    config = resolve(
        None,
        [
            f"model={folder}", "backend=cpu", "train.dtype=float32", f"train.shard={shard}",
            "rollouts.engine=vllm", "train.micro_batch_tokens=64",
        ],
    )  # fmt: skip
    backend = backends.get("cpu")
    with opened(size) as workers:
        worker = next(c for c in psutil.Process().children() if "worker" in " ".join(c.cmdline()))
        small = resolve(None, ["backend=cpu", "train.shard=none"])
        with loaded_on_all(small, True, workers, lambda: backend.load(small, True)):
            before = worker.memory_info().rss
        with loaded_on_all(config, True, workers, lambda: backend.load(config, True)) as policy:
            inner: Any = policy
            model = inner._inner._model
            kept = sum(
                local(p).numel() * p.element_size()
                for p in model.parameters()
                if not p.requires_grad
            )
            added = worker.memory_info().rss - before
            for _ in range(2):
                policy.accumulate(BATCH)
                policy.apply(1e-3)
            status = Path(f"/proc/{worker.pid}/status").read_text()
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
            assert peak is not None
    return kept / 1e6, added / 1e6, int(peak[1]) * 1024 / 1e6


def main() -> None:
    # Workers give freed memory back at once, so that resident memory is what is in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", default="2,4", help="numbers of ranks (2,4)")
    arguments.add_argument("--layers", type=int, default=12, help="of the model (12)")
    arguments.add_argument("--hidden", type=int, default=512, help="of the model (512)")
    given = arguments.parse_args()
    settings = {
        "vocab_size": 1000, "hidden_size": given.hidden, "intermediate_size": 3 * given.hidden,
        "num_hidden_layers": given.layers, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": given.hidden // 8, "tie_word_embeddings": True,
    }  # fmt: skip
    print("| ranks | train.shard | base on a rank, MB | added by loading, MB | peak, MB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        build_qwen3(Path(folder), settings)
        for size in (int(size) for size in given.sizes.split(",")):
            for shard in ("none", "full"):
                kept, added, peak = measured(Path(folder), size, shard)
                print(f"| {size} | {shard} | {kept:.0f} | {added:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
