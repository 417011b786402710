"""`comparison.png`: accuracy against generated tokens, one curve with a 95% band per method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Maximum length of a label, in characters, that leaves room for the curves.
LONGEST_LABEL = 60
#: The same of the title, which has the whole width.
LONGEST_TITLE = 100


def write_comparison_picture(summary: Mapping[str, Any], out: Path) -> Path:
    """Draw each method's mean curve with its band, the target accuracy and the token ratio.

    Args:
        summary: as `opsd_cli.comparison.summary.summarise` returns it.
        out: the PNG file to write; its folder is created.

    Returns:
        `out`.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from opsd_cli.files.os_errors import naming
    from opsd_cli.formatting import share

    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout="constrained")
    target = 100 * summary["target_accuracy"]  # in percent, as all accuracies of the picture
    axes.axhline(target, color="0.45", linestyle="--", linewidth=1, zorder=1)
    axes.annotate(
        f"target {share(summary['target_accuracy'])}", (1, target),
        xycoords=("axes fraction", "data"), xytext=(-4, 4), textcoords="offset points",
        ha="right", va="bottom", color="0.35",
    )  # fmt: skip
    _draw_curves(axes, summary, target)
    axes.set_title(_draw_ratio(axes, summary, target), fontsize=11, loc="left")
    _scale_tokens(axes, summary)
    axes.set_xlabel("thousand tokens generated")
    axes.set_ylabel("accuracy on test problems, %")
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        figure.savefig(out, dpi=150)
    pyplot.close(figure)
    return out


def _thousands(entry: Mapping[str, Any]) -> list[float]:
    """Thousands of generated tokens at each evaluation of a method."""
    return [tokens / 1000 for tokens in entry["curve"]["cost"]["generated"]]


def _draw_curves(axes: Any, summary: Mapping[str, Any], target: float) -> None:
    """Each method's curve and band, and a diamond where the curve reaches the target."""
    for index, (name, entry) in enumerate(summary["methods"].items()):
        x, colour = _thousands(entry), f"C{index}"
        y = [100 * value for value in entry["curve"]["accuracy"]]
        band = zip(*entry["curve"]["band"], strict=True)
        low, high = ([100 * edge for edge in side] for side in band)
        axes.fill_between(x, low, high, alpha=0.15, linewidth=0, color=colour)
        axes.plot(x, y, marker="o", markersize=4, color=colour, label=_label(name))
        if entry["tokens_to_target"] is not None:
            axes.plot(
                [entry["tokens_to_target"] / 1000], [target], marker="D", color=colour,
                markeredgecolor="white", markersize=9, linestyle="none", zorder=3,
            )  # fmt: skip


def _draw_ratio(axes: Any, summary: Mapping[str, Any], target: float) -> str:
    """An arrow between the two methods' costs at the target; returns the title, with the ratio."""
    from opsd_cli.comparison.verdict import title

    found = summary["token_efficiency"]
    better, than = (
        summary["methods"][found[side]]["tokens_to_target"] for side in ("better", "than")
    )
    if better and than:
        axes.annotate(
            "", (better / 1000, target), (than / 1000, target),
            arrowprops={"arrowstyle": "<->", "color": "0.35", "shrinkA": 6, "shrinkB": 6},
        )  # fmt: skip
    return _label(title(summary), LONGEST_TITLE)


def _scale_tokens(axes: Any, summary: Mapping[str, Any]) -> None:
    """Make the token axis logarithmic if the methods' curves differ much in length."""
    from opsd_cli.reports.scales import linear_until, log_ticks

    tokens = [_thousands(entry) for entry in summary["methods"].values()]
    bend = linear_until(tokens)
    if bend is not None:
        axes.set_xscale("symlog", linthresh=bend)
        ticks = [0.0, *log_ticks(bend, max(map(max, tokens)))]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlim(left=0)


def _label(name: str, most: int = LONGEST_LABEL) -> str:
    """A method's label, which can be a directory's name, as plain text and not as mathtext."""
    from opsd_cli.printable import shortened, visible

    return shortened(visible(name), most).replace("$", r"\$")
