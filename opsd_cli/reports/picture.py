"""The picture of a run: accuracy against generated tokens, as a PNG file."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.errors import RunError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.files.os_errors import naming
from opsd_cli.formatting import share
from opsd_cli.training import run_directory


def write_picture(run_dir: Path, out: Path) -> Path:
    """Draw a run's validation curve with 95% intervals, and test accuracy of base and best.

    Args:
        run_dir: directory of a finished run.
        out: the PNG file to write; its folder is created.

    Returns:
        `out`.

    Raises:
        RunError: the run has not finished, its result is damaged, or nothing was graded in it.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    result = run_directory.result_of(run_dir)
    if result is None:
        raise RunError(
            f"the run in {run_dir} has not finished, or its {run_directory.RESULT} is damaged",
            f"go on with it: opsd train --resume --out {run_dir}",
        )
    if not result["accuracy"]:
        raise RunError(
            f"the run in {run_dir} has no accuracy to draw: nothing was graded in it",
            "its report.html has the curves of what was measured instead",
        )
    rows = [r for r in read_rows(run_dir / run_directory.EVALUATIONS) if r["split"] == "validation"]
    tokens = [row["generated"] / 1000 for row in rows]
    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    low, high = ([100 * row["accuracy"][edge] for row in rows] for edge in ("low", "high"))
    axes.fill_between(tokens, low, high, alpha=0.15, linewidth=0)
    values = [100 * row["accuracy"]["value"] for row in rows]
    axes.plot(tokens, values, marker="o", label="validation (95% interval)")
    test = {name: result["accuracy"][name]["value"] for name in ("base", "best")}
    best_at = next(
        t for t, row in zip(tokens, rows, strict=True) if row["step"] == result["best_step"]
    )
    axes.axhline(100 * test["base"], color="0.5", linestyle="--", linewidth=1)
    axes.annotate(
        f"base model on test: {share(test['base'])}", (tokens[-1], 100 * test["base"]),
        ha="right", va="bottom", color="0.35",
    )  # fmt: skip
    axes.plot(
        [best_at], [100 * test["best"]], marker="*", markersize=16, color="C1", linestyle="none",
        label=f"best checkpoint on test: {share(test['best'])}",
    )  # fmt: skip
    axes.set_xlabel("thousand tokens generated")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.12))
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out):
        figure.savefig(out, dpi=150)
    pyplot.close(figure)
    return out
