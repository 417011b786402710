"""Results of the kits that are kept in the repository, and their part of docs/measured.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.proof.page import page

KITS = {"gpu": "a CUDA GPU", "mac": "Apple silicon"}


def save_kit(path: Path, results: Path) -> None:
    """Keep a kit's JSON.

    Raises:
        SystemExit: the file is not a kit's, or its shapes were tiny.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        name, tiny = found["kit"], found["tiny"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SystemExit(f"{path} is not the JSON of a kit") from None
    if tiny or name not in KITS:
        raise SystemExit(
            f"{path} is of a tiny run, which shows no speed: run the kit without --tiny"
        )
    shutil.copyfile(path, results / f"{name}.json")


def with_kits(text: str, results: Path) -> str:
    """A page with the kits' tables between their marks; a kit without a result says that alone."""
    for name, device in KITS.items():
        start, end = f"<!-- {name}: python -m benchmarks.tables -->", f"<!-- /{name} -->"
        before, rest = text.split(start)
        after = rest.split(end)[1]
        path = results / f"{name}.json"
        body = (
            page(json.loads(path.read_text(encoding="utf-8")), level=3).strip()
            if path.is_file()
            else f"Nothing has been measured on {device} yet. The command is "
            f"`python -m benchmarks.{name} --out DIR`."
        )
        text = f"{before}{start}\n{body}\n{end}{after}"
    return text
