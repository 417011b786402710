"""What more GPUs would gain, on paper: the seconds of a step from parts that are assumed.

    python benchmarks/scaling_estimate.py [--decode-ms 20] [--tflops 350]
                                          [--node-gbs 100] [--net-gbs 3]

No GPU has been measured, so this is arithmetic and not a result. A step of the published recipe (32
rollouts of up to 1,024 tokens) takes

    T(N) = 1024 x decode + (forward and backward) / N + exchange(N)

- decode: a decoding step reads all weights, whether it decodes 32 rows or 4, so more GPUs do not
  shorten it; they would if a step had many more rollouts. It is assumed, not measured.
- forward and backward: 2 FLOP a parameter and token for each forward pass, 2 more for the student's
  backward pass through the frozen base, and the output head likewise, at the assumed FLOP/s.
- exchange: 8 bytes a parameter of the adapter, less 1/N, at the slowest link that a ring crosses.
  That many bytes were counted on two processes: `python benchmarks/machinery.py --bytes`.

Put your own numbers in: `opsd train` prints the seconds of each phase of a step.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser

ROLLOUTS, COMPLETION, PROMPT, REFERENCE = 32, 1024, 150, 1000
RANK = 64
GPUS_OF_A_MACHINE = 8


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as its config.json states them."""

    hidden: int
    inner: int
    layers: int
    queries: int
    keys: int
    vocabulary: int = 151_936

    @property
    def backbone(self) -> int:
        """Parameters of the decoder layers' matrices."""
        attention = 2 * self.hidden * self.queries + 2 * self.hidden * self.keys
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def adapter(self) -> int:
        """Parameters of a LoRA adapter on all seven projections."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * RANK * (attention + 3 * (self.hidden + self.inner))

    @property
    def gradient_flop(self) -> float:
        """FLOP of a step's teacher and student passes, the student's backward pass included."""
        student = ROLLOUTS * (PROMPT + COMPLETION)
        teacher = ROLLOUTS * (PROMPT + REFERENCE + COMPLETION)
        head = 2.0 * self.hidden * self.vocabulary * ROLLOUTS * COMPLETION
        return 2.0 * self.backbone * (2 * student + teacher) + head * 3


SHAPES = {
    "Qwen3-1.7B": Shape(2048, 6144, 28, 2048, 1024),
    "Qwen3-8B": Shape(4096, 12288, 36, 4096, 1024),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--decode-ms", type=float, default=20.0, help="of a decoding step (20)")
    options.add_argument("--tflops", type=float, default=350.0, help="of a GPU's passes (350)")
    options.add_argument("--node-gbs", type=float, default=100.0, help="GB/s in a machine (100)")
    options.add_argument("--net-gbs", type=float, default=3.0, help="GB/s between machines (3)")
    given = options.parse_args()
    print("| model | GPUs | decoding, s | passes, s | exchange, s | step, s | gain |")
    print("|---|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        alone = 0.0
        for gpus in (1, 8, 16):
            decoding = COMPLETION * given.decode_ms / 1e3
            passes = shape.gradient_flop / (given.tflops * 1e12) / gpus
            link = given.node_gbs if gpus <= GPUS_OF_A_MACHINE else given.net_gbs
            exchange = 8 * shape.adapter * (1 - 1 / gpus) / (link * 1e9)
            total = decoding + passes + exchange
            alone = alone or total
            machines = "2 × 8" if gpus > GPUS_OF_A_MACHINE else str(gpus)
            print(
                f"| {name} | {machines} | {decoding:.1f} | {passes:.2f} | {exchange:.3f} | "
                f"{total:.1f} | {alone / total:.2f} |"
            )


if __name__ == "__main__":
    main()
