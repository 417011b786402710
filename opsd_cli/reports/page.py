"""The frame of every report: one self-contained HTML file with a light and a dark scheme.

It has no script, no font and no network access. Callers escape all text from models and data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from opsd_cli.config.yaml_files import read_yaml
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import OpsdError
from opsd_cli.training.checkpoints import FOLDER

#: Letters of the longest estimate with its interval, as "100.0% (100.0–100.0)".
_INTERVAL = 20
STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5b6676;--page:#fff;--card:#f5f7fa;--grid:#dfe4ea;
--one:#0b6bcb;--two:#c2410c;--three:#15803d;--four:#7e22ce;--band:.13;--edge:.45}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a2b3;--page:#12161c;--card:#1b212a;
--grid:#303846;--one:#6cb2ff;--two:#fb923c;--three:#4ade80;--four:#c084fc;--band:.2;--edge:.8}}
*{box-sizing:border-box}body{--under:var(--page)}figure{--under:var(--card)}
body{margin:0 auto;max-width:1080px;padding:1.5rem 1rem;color:var(--ink);
background:var(--page);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.35rem;line-height:1.35}
h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.25rem 0 .5rem}
.dim,.legend,.tick{color:var(--dim)}
.grid2{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.grid2>*{min-width:0}
figure{margin:0;padding:.75rem;background:var(--card);border-radius:.5rem}
figcaption{font-weight:600}
.chart{container-type:inline-size}
.plot{position:relative;height:13rem;margin:.75rem .75rem 1.4rem 3.25rem}
.plot>svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot svg *{vector-effect:non-scaling-stroke}.plot polyline,.plot path{fill:none}
.plot .grid{stroke:var(--grid)}.plot .level{stroke:var(--dim);stroke-dasharray:5 4}
.plot svg .band{opacity:var(--band)}.plot .edge{stroke-width:1;opacity:var(--edge)}
.plot .span{stroke-width:2;opacity:.6}
.tick{position:absolute;font-size:12px;line-height:1;white-space:nowrap}
.tick.y{right:100%;margin-right:.5rem;transform:translateY(50%)}
.tick.x{top:100%;margin-top:.5rem;transform:translateX(-50%)}
.axis{font-size:12px;line-height:1.3;margin:0 0 .4rem;text-align:center;color:var(--dim)}
.tick.at{right:0;margin-bottom:4px;background:var(--card)}
@container(max-width:26rem){.tick.often{display:none}}
.point i{position:absolute;left:var(--x);bottom:var(--y);width:7px;height:7px;
margin:0 0 -3.5px -3.5px;border-radius:50%;background:var(--c)}
.point.marked i{width:13px;height:13px;margin:0 0 -6.5px -6.5px}
.point.small i{width:4px;height:4px;margin:0 0 -2px -2px}
.point i::after{content:"";position:absolute;inset:-6px}
.point b{visibility:hidden;position:absolute;z-index:2;top:100%;left:-3rem;right:-.5rem;
margin-top:1.4rem;padding:.2rem .4rem;border:1px solid var(--c);border-radius:.3rem;
background:var(--page);font-size:13px;font-weight:400;line-height:1.35}
.point:hover b,.point:focus b{visibility:visible}
.point:hover i,.point:focus i{outline:2px solid var(--ink);outline-offset:2px}
.point:focus{outline:0}
.legend{font-size:.85rem;margin:.25rem 0 0}
.legend span{margin-right:1rem;display:inline-block;max-width:100%}
.key{width:24px;height:12px;margin-right:.35em;vertical-align:-1px}.key line{stroke-width:3}
.values summary{font-size:.85rem;color:var(--dim)}.values td,.values th{font-size:.85rem}
.values td{white-space:nowrap}.values .scroll{max-height:16rem}
.scroll{overflow:auto;max-width:100%;scrollbar-width:thin;
background:linear-gradient(90deg,var(--under) 40%,transparent) 0 0/2rem 100% local no-repeat,
linear-gradient(-90deg,var(--under) 40%,transparent) 100% 0/2rem 100% local no-repeat,
linear-gradient(90deg,var(--grid),transparent) 0 0/.9rem 100% no-repeat,
linear-gradient(-90deg,var(--grid),transparent) 100% 0/.9rem 100% no-repeat}
.scroll td,.scroll th{overflow-wrap:normal}
.nowrap{white-space:nowrap}
.remark{border-left:.25rem solid var(--two);padding-left:.75rem}
a{color:var(--one)}figure+.scroll{margin-top:.75rem}
td a{display:inline-block;min-width:13rem}
meter{width:5rem;vertical-align:middle}
details{margin:.35rem 0}summary{cursor:pointer}
table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;text-align:left;
border-bottom:1px solid var(--grid);vertical-align:top}td:last-child,th:last-child{padding-right:0}
pre{white-space:pre-wrap;word-break:break-word;
background:var(--card);padding:.75rem;border-radius:.5rem;font-size:.85rem;margin:.25rem 0}
"""


def html_page(title: str, sections: Sequence[str]) -> str:
    """A complete HTML document; `title` is escaped, `sections` are HTML already."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        + "".join(sections)
        + "</main></body></html>\n"
    )


def figure(title: str, body: str) -> str:
    """A chart with a caption; `title` is escaped, `body` is HTML already."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls inside its container where it is wider; every cell is escaped."""
    return scrolled(heads, "".join("<tr>" + "".join(map(_cell, row)) for row in rows))


def scrolled(heads: Sequence[str], body: str) -> str:
    """A table in a container that scrolls and that the keyboard reaches, named by its headings.

    Args:
        heads: escaped here; a column without a heading gets an empty cell, which is no heading.
        body: its rows, HTML already.
    """
    head = "".join(f"<th scope=col>{escape(text)}" if text else "<td>" for text in heads)
    name = escape(", ".join(filter(None, heads[:4])), quote=True)
    return (
        f'<div class=scroll tabindex=0 role=region aria-label="table: {name}">'
        f"<table><tr>{head}{body}</table></div>"
    )


def _cell(text: str) -> str:
    """A cell; an interval is never broken at its dash, which browsers allow in a narrow column."""
    kept = " class=nowrap" if "–" in text and len(text) <= _INTERVAL else ""
    return f"<td{kept}>{escape(text)}"


def folded(title: str, text: str) -> str:
    """Text that is shown as it is, under a line that opens it; both are escaped."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def model_name(config: str) -> str:
    """The name of the model in a config's text (`named_model`)."""
    try:
        tree = read_yaml(config, "the config")
    except OpsdError:  # the page of a damaged run is still of use
        tree = None
    return named_model(tree.get("model") if isinstance(tree, Mapping) else None)


def named_model(model: object) -> str:
    """A model as a sentence names it: a hub id, or a folder by the last two parts of its path."""
    if not model:
        return "the model"
    if model == EMBEDDED:
        return "the embedded model"
    path = Path(str(model))
    if not path.is_absolute() and len(path.parts) == 2 and not str(model).startswith("."):
        return str(model)  # a hub id, or a folder that reads like one
    parts = [part for part in path.parts if part not in (path.anchor, ".", "..")]
    return f"the model {'/'.join(parts[-2:]) or path}"


def named_adapter(adapter: str) -> str:
    """An adapter as a sentence names it: its folder, with its run's if it is a checkpoint."""
    path = Path(adapter)
    if path.parent.name == FOLDER:
        return f"{path.parent.parent.name}, {path.name}"
    return path.name if path.is_absolute() else adapter
