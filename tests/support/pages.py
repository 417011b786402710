"""Checks of a report's HTML that a screen reader and the keyboard depend on."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.tags: set[str] = set()
        self.level = 0
        self.heading: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_heading()
        self.tags.add(tag)
        given = dict(attrs)
        if tag == "html" and not given.get("lang"):
            self.faults.append("the page has no language")
        if tag == "svg" and "aria-hidden" not in given and "aria-label" not in given:
            self.faults.append("a drawing has no name and is not hidden")
        if tag == "img" and "alt" not in given:
            self.faults.append("a picture has no text in its place")
        if tag == "div" and "tabindex" in given and not given.get("aria-label"):
            self.faults.append("what the keyboard reaches has no name")
        if tag == "th":
            self.heading = []
            if given.get("scope") not in ("col", "row"):
                self.faults.append("a heading of a table has no scope")
        if re.fullmatch("h[1-6]", tag):
            level = int(tag[1])
            if level > self.level + 1:
                self.faults.append(f"a heading of rank {level} follows one of rank {self.level}")
            self.level = level

    def handle_endtag(self, tag: str) -> None:
        self._end_heading()

    def handle_data(self, data: str) -> None:
        if self.heading is not None:
            self.heading.append(data)

    def _end_heading(self) -> None:
        if self.heading is not None and not "".join(self.heading).strip():
            self.faults.append("a heading of a table is empty")
        self.heading = None


def accessibility_faults(html: str) -> list[str]:
    """What is wrong with a page, a line each; none for a good one."""
    page = _Page()
    page.feed(html)
    missing = {"html", "title", "main", "h1"} - page.tags
    return page.faults + [f"the page has no {tag}" for tag in sorted(missing)]
