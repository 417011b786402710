"""Rebuild the embedded model: `python -m opsd_cli.embedded --out DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from backends.pytorch.pretrain import Measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m opsd_cli.embedded", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model's files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="the published model used 2")
    arguments = parser.parse_args()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty")

    from backends.pytorch.pretrain import Recipe, pretrain

    recipe = Recipe(seed=arguments.seed)
    console = Console(stderr=True)
    columns = (
        TextColumn("step {task.completed}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("pretraining", total=recipe.steps, loss=float("nan"))

        def report(step: int, loss: float, measured: Measured | None) -> None:
            bar.update(task, completed=step, loss=loss)
            if measured:
                console.print(
                    f"step {step}: right without the reference {measured.without_reference:.1%}, "
                    f"with it {measured.with_reference:.1%}"
                )

        pretrain(recipe, arguments.out, report, arguments.threads)
    console.print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
