"""The files that the presets `domain-*` name: a command in a clone of the repository makes them."""

from __future__ import annotations

from pathlib import PurePath

#: The domains of `benchmarks/domains`; each has a preset `domain-NAME`.
DOMAINS = ("choice", "code", "constraints", "json", "style")
#: The folder of problems and models, and a file that belongs to one domain, as the presets name
#: them.
FOLDER = "domains"
OF_ONE = {"benchmarks/domains/rules.py": "constraints"}


def how_to_make(path: str | PurePath) -> str | None:
    """A hint for a missing file of a preset `domain-*`; None for any other path."""
    path = PurePath(path)
    name = OF_ONE.get(path.as_posix())
    if name is None and path.parts[:1] == (FOLDER,) and len(path.parts) == 3:
        name = path.parts[1]
    if name not in DOMAINS:
        return None
    return (
        f"the preset domain-{name} needs a clone of the repository: in its root, `python -m "
        f"benchmarks.domains --out {FOLDER} --only {name} --make-only` makes the problems and the "
        "model; then run this command there (docs/domains.md)"
    )
