"""The frame of every report: one self-contained HTML file with a light and a dark scheme.

It has no script, no font and no network access. Callers escape all text from models and data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#667080;--page:#fff;--card:#f5f7fa;--grid:#dfe4ea;
--one:#0b6bcb;--two:#c2410c;--three:#15803d;--four:#7e22ce}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a2b3;--page:#12161c;--card:#1b212a;
--grid:#303846;--one:#6cb2ff;--two:#fb923c;--three:#4ade80;--four:#c084fc}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:1.5rem 1rem;color:var(--ink);
background:var(--page);font:16px/1.5 system-ui,sans-serif}h1{font-size:1.35rem;line-height:1.35}
h2{font-size:1.05rem;margin:2rem 0 .5rem}.dim,.legend,.tick{color:var(--dim);fill:var(--dim)}
.grid2{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
figure{margin:0;padding:.75rem;background:var(--card);border-radius:.5rem}
figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}svg .grid{stroke:var(--grid)}
svg .level{stroke:var(--dim);stroke-dasharray:5 4}
.tick{font-size:12px}
.legend{font-size:.85rem;margin:.25rem 0 0}.legend span{margin-right:1rem}
.legend i{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.35em}
.scroll{overflow-x:auto}
.nowrap{white-space:nowrap}
.remark{border-left:.25rem solid var(--two);padding-left:.75rem}
a{color:var(--one)}
meter{width:5rem;vertical-align:middle}
details{margin:.35rem 0}summary{cursor:pointer}
table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;text-align:left;
border-bottom:1px solid var(--grid);vertical-align:top}
pre{white-space:pre-wrap;word-break:break-word;
background:var(--card);padding:.75rem;border-radius:.5rem;font-size:.85rem;margin:.25rem 0}
"""


def html_page(title: str, sections: Sequence[str]) -> str:
    """A complete HTML document; `title` is escaped, `sections` are HTML already."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        + "".join(sections)
        + "</body></html>\n"
    )


def figure(title: str, body: str) -> str:
    """A chart with a caption; `title` is escaped, `body` is HTML already."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>"
