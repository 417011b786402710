"""The flags of `opsd compare` alone, as `opsd_cli.cli.options` has those of the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from opsd_cli.methods import METHODS

#: Options of `opsd train` that this command does not have, and what does the same here.
INSTEAD = {
    "--devices": "--jobs N deals N runs at a time over the GPUs; where one run needs several "
    "devices, train each with `opsd train --devices N` or under torchrun, and compare them when "
    "they have finished: `opsd compare RUN RUN`",
}


def _sentence(names: Iterable[str]) -> str:
    """The names of a registry in a sentence: "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


#: Flags of `opsd train` that `opsd compare` lacks, and their keys: each method has its own value.
OF_EACH_METHOD = {
    "--steps": "train.steps",
    "--batch": "train.questions_per_step",
    "--lr": "optimizer.learning_rate",
}
Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Finished runs to compare; none trains anew."),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods", metavar="A,B,...",
        help=f"Of {_sentence(METHODS)}; by default opsd,grpo, and with --vary the config's alone.",
    ),
]  # fmt: skip
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary", metavar="KEY=A,B,...",
        help="Compare values of a config key; repeat for more keys, one changed at a time.",
    ),
]  # fmt: skip
Grid = Annotated[
    bool, typer.Option("--grid", help="With several --vary: all combinations of their values.")
]
Halving = Annotated[
    bool,
    typer.Option(
        "--halving",
        help="End the worse half of the arms early, on validation; the rest goes on.",
    ),
]
HalvingRounds = Annotated[
    int | None,
    typer.Option(
        "--halving-rounds", min=1,
        help="Rounds before the last; by default as many as leave two or three arms.",
    ),
]  # fmt: skip
HalvingFraction = Annotated[
    float | None,
    typer.Option(
        "--halving-fraction", min=0.05, max=0.95,
        help="Share of the arms that goes on after a round; by default 0.5.",
    ),
]  # fmt: skip
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Runs of each method, counted from --seed.")
]
Tune = Annotated[
    bool, typer.Option("--tune", help="First choose each learning rate on validation.")
]
Target = Annotated[
    float | None,
    typer.Option(
        "--target", min=0, max=1,
        help="Accuracy to reach; by default the best that the weakest improving method reaches.",
    ),
]  # fmt: skip
RequireRatio = Annotated[
    float | None,
    typer.Option("--require-ratio", min=0, help="Exit with 4 where the ratio is below this."),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs side by side.")]
ResumeComparison = Annotated[
    bool, typer.Option("--resume", help="Go on with the comparison in --out.")
]
