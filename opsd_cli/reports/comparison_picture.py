"""The picture of a comparison: accuracy against generated tokens, a band a method, as a PNG."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Characters; a longer label leaves no room for the picture.
LONGEST_LABEL = 60


def write_comparison_picture(summary: Mapping[str, Any], out: Path) -> Path:
    """Draw every method's mean curve with its 95% band, the target, and the ratio between them."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from opsd_cli.comparison.summary import times
    from opsd_cli.files.os_errors import naming
    from opsd_cli.reports.svg import linear_until, log_ticks

    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout="constrained")
    target = 100 * summary["target_accuracy"]
    axes.axhline(target, color="0.45", linestyle="--", linewidth=1, zorder=1)
    axes.annotate(
        f"target {target:.1f}%", (1, target), xycoords=("axes fraction", "data"),
        xytext=(-4, 4), textcoords="offset points", ha="right", va="bottom", color="0.35",
    )  # fmt: skip
    for index, (name, entry) in enumerate(summary["methods"].items()):
        curve = entry["curve"]
        x = [tokens / 1000 for tokens in curve["cost"]["generated"]]
        y = [100 * value for value in curve["accuracy"]]
        low, high = ([100 * edge for edge in side] for side in zip(*curve["band"], strict=True))
        colour = f"C{index}"
        axes.fill_between(x, low, high, alpha=0.15, linewidth=0, color=colour)
        axes.plot(x, y, marker="o", markersize=4, color=colour, label=_shown(name))
        if entry["tokens_to_target"] is not None:
            axes.plot(
                [entry["tokens_to_target"] / 1000], [target], marker="D", color=colour,
                markeredgecolor="white", markersize=9, linestyle="none", zorder=3,
            )  # fmt: skip
    found = summary["token_efficiency"]
    better, than = (
        summary["methods"][found[side]]["tokens_to_target"] for side in ("better", "than")
    )
    better_name, other_name = (_shown(found[side]) for side in ("better", "than"))
    title = f"{better_name} against {other_name}: {times(found['ratio'])} fewer tokens"
    if better is not None and than is not None:
        axes.annotate(
            "", (better / 1000, target), (than / 1000, target),
            arrowprops={"arrowstyle": "<->", "color": "0.35", "shrinkA": 6, "shrinkB": 6},
        )  # fmt: skip
        title += f" (95% interval {times(found['low'])} to {times(found['high'])})"
    tokens = [
        [x / 1000 for x in entry["curve"]["cost"]["generated"]]
        for entry in summary["methods"].values()
    ]
    bend = linear_until(tokens)
    if bend is not None:
        axes.set_xscale("symlog", linthresh=bend)
        ticks = [0.0, *log_ticks(bend, max(map(max, tokens)))]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlim(left=0)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("thousand tokens generated")
    axes.set_ylabel("accuracy on test problems, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        figure.savefig(out, dpi=150)
    pyplot.close(figure)
    return out


def _shown(name: str) -> str:
    """A label, which may be a directory's name, as text: dollars would mean mathematics."""
    from opsd_cli.printable import shortened, visible

    return shortened(visible(name), LONGEST_LABEL).replace("$", r"\$")
