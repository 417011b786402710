"""A domain's folder: its problems, as JSONL files, and its base model.

    FOLDER/train.jsonl  validation.jsonl  test.jsonl  model/  made.json

What is there and was made from the same sources is not made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from backends.pytorch.pretrain import Recipe
from benchmarks.domains.base import Measured, pretrain, recipe_of
from benchmarks.domains.example import Domain
from opsd_cli.config.schema import Config
from opsd_cli.loading import load_config
from opsd_cli.problems.arithmetic import SPLITS, Split

#: Problems of each split.
SIZES: dict[Split, int] = {"train": 240, "validation": 100, "test": 200}
MADE = "made.json"
#: Examples of each split by which changed sources of a domain are recognised.
SAMPLED = 50


def config_of(domain: Domain, folder: Path, **more: Any) -> Config:
    """The domain's preset, with its model and problems in `folder`; `more` are further keys."""
    files = {f"data.{split}": folder / f"{split}.jsonl" for split in SIZES}
    return load_config(domain.preset, **{"model": folder / "model", **files, **more})


def inputs(domain: Domain, recipe: Recipe) -> dict[str, Any]:
    """What a domain's files depend on."""
    drawn = [[asdict(each) for each in islice(domain.examples(s), SAMPLED)] for s in SPLITS]
    config = load_config(domain.preset)
    return {
        "examples": hashlib.sha256(json.dumps(drawn).encode()).hexdigest(),
        "prompts": [config.prompts.student.template, config.prompts.teacher.template],
        "recipe": asdict(recipe),
        "sizes": dict(SIZES),
    }


def write_problems(domain: Domain, folder: Path, sizes: dict[Split, int] = SIZES) -> None:
    """Write `SPLIT.jsonl` for each split; no key is in two of them."""
    for split, size in sizes.items():
        rows = [{"id": e.key, **e.row} for e in islice(domain.examples(split), size)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def make(
    domain: Domain,
    folder: Path,
    report: Callable[[int, float, Measured | None], None],
    recipe: Recipe | None = None,
) -> bool:
    """Make a domain's folder, unless it was made from the same sources; True if it was made now.

    The recipe is by default the domain's own.

    Runs that are in a folder of other sources are removed with it.
    """
    recipe = recipe or recipe_of(domain)
    wanted = inputs(domain, recipe)
    if (folder / MADE).is_file() and json.loads((folder / MADE).read_text("utf-8")) == wanted:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_problems(domain, folder)
    pretrain(domain, config_of(domain, folder), folder / "model", report, recipe)
    (folder / MADE).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    return True
