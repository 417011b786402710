"""The files of a run directory, and what can be read of a run without opening it.

config.yaml  environment.json  metrics.jsonl  rollouts.jsonl  evaluations.jsonl
preflight.json  preflight-samples.jsonl  checkpoints/step-000025/  best  result.json  report.html
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.errors import RunError
from opsd_cli.files.atomic_write import sha256_of, staging_path
from opsd_cli.files.directory_lock import LOCK
from opsd_cli.files.fresh_directory import fresh_directory
from opsd_cli.files.json_files import read_object
from opsd_cli.training.checkpoints import FOLDER, STATE, Checkpoints, step_of
from opsd_cli.training.seals import SEALS, seals_of

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
EVALUATIONS = "evaluations.jsonl"
#: Analyses written by the teacher; only runs with teacher.reason_first have it.
ANALYSES = "analyses.jsonl"
PREFLIGHT = "preflight.json"
#: Every completion of the preflight, of both roles.
PREFLIGHT_SAMPLES = "preflight-samples.jsonl"
RESULT = "result.json"
#: The number of steps of a finished run that was extended; config.yaml has that of its beginning.
EXTENSION = "extension.json"
#: Names the checkpoint with the best validation accuracy.
BEST = "best"
#: Samples of the evaluation in progress.
UNFINISHED = ".evaluation.jsonl"
#: Present in an evaluation directory and never in a run directory.
EVALUATION = "evaluation.json"
LOGS = (METRICS, ROLLOUTS, EVALUATIONS, ANALYSES)

#: What a creation that was killed can leave; a directory with nothing else counts as empty.
LEFTOVERS = {
    LOCK,
    SEALS,
    *(staging_path(Path(name)).name for name in (CONFIG, ENVIRONMENT, SEALS, EVALUATION)),
}


def make_default_directory(config: Config, root: Path = Path("runs")) -> Path:
    """Make a new directory such as runs/20261123-094500-opsd-embedded-s0.

    Raises:
        OSError: it cannot be made.
    """
    model = Path(config.model).name or "model"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return fresh_directory(root, f"{stamp}-{config.method}-{model}-s{config.seed}")


def refuse_used(directory: Path) -> None:
    """Check that a directory is missing or empty.

    Raises:
        RunError: it holds a run, an evaluation or other files, or is a file.
    """
    if directory.is_file():
        raise RunError(f"{directory} is a file", "give --out a directory")
    if not directory.exists() or all(path.name in LEFTOVERS for path in directory.iterdir()):
        return
    if (directory / CONFIG).exists() and not (directory / EVALUATION).exists():
        raise RunError(
            f"{directory} already holds a run",
            f"go on with it (--resume --out {directory}), write elsewhere (another --out), "
            "or move it away first",
        )
    if (directory / EVALUATION).exists():
        raise RunError(
            f"{directory} already holds an evaluation",
            f"go on with it (opsd eval --resume --out {directory}), write elsewhere (another "
            "--out), or move it away first",
        )
    raise RunError(f"{directory} is not empty", "give --out a new or empty directory")


def result_of(directory: Path) -> dict[str, Any] | None:
    """The contents of result.json; None if the run has not finished or the file is damaged."""
    path = directory / RESULT
    found = read_object(path)
    sealed = seals_of(directory).get(RESULT)
    return None if found is None or (sealed and sealed != sha256_of(path)) else found


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the best validation accuracy; None if it is not known or not there.

    The newest checkpoint's state names it. The `best` file, for people and scripts, is written
    afterwards, so after a kill in between it can name the previous one.
    """
    checkpoints = Checkpoints(directory)
    newest = checkpoints.newest()
    state = read_object(newest / STATE) if newest is not None else None
    if state is not None and isinstance(state.get("best_step"), int):
        path = checkpoints.path(state["best_step"])
        if path.is_dir():
            return path
    named = directory / BEST
    if not named.is_file():
        return None
    name = named.read_text(encoding="utf-8", errors="replace").strip()
    if step_of(Path(name)) is None:
        return None
    path = directory / FOLDER / name
    return path if path.is_dir() else None
