"""The progress of a run's current phase in a file, for another process that shows it.

`opsd compare` names the file to the runs that it starts. The file is replaced about once a second;
it is not synced to the disk, since nobody needs it after a crash.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from opsd_cli.files.json_files import read_object
from opsd_cli.tracking.pace import Pace

#: Environment variable that names the file.
PROGRESS_FILE = "OPSD_PROGRESS_FILE"


@dataclass(frozen=True)
class Published:
    """The progress of a run's current phase.

    Attributes:
        phase: its name.
        done: completions sampled, or loss batches learnt.
        total: of how many.
        tokens: decoded or read so far; None where the phase counts none.
        most: of how many at most.
        tokens_per_second: of the last seconds; None while unknown.
        seconds: since the run began.
        left: seconds left of the run; None while there is too little to estimate from.
        at_most: True if `left` is an upper bound.
        reading: True if `tokens` and `most` are those of prompts that are being read.
    """

    phase: str
    done: int
    total: int
    tokens: int | None
    most: int | None
    tokens_per_second: float | None
    seconds: float
    left: float | None
    at_most: bool
    reading: bool = False


def published_of(pace: Pace) -> Published:
    """What a pace says now."""
    tokens = most = None
    reading = pace.reading
    if pace.learned is not None:
        tokens, most = pace.learned
    elif reading is not None:
        tokens, most = reading
    elif pace.decoded is not None:
        tokens, most = pace.decoded.tokens, pace.decoded.most
    left = pace.left
    return Published(
        phase=pace.name,
        done=pace.done,
        total=pace.total,
        tokens=tokens,
        most=most,
        tokens_per_second=pace.tokens_per_second,
        seconds=pace.elapsed,
        left=None if left is None else left.seconds,
        at_most=left is not None and left.at_most,
        reading=reading is not None and pace.learned is None,
    )


def publish(path: Path, pace: Pace) -> None:
    """Replace the file's contents; an error in writing is ignored, for the run does not need it."""
    partial = path.with_name(f".{path.name}.partial")
    with contextlib.suppress(OSError):
        partial.write_text(json.dumps(asdict(published_of(pace))), encoding="utf-8")
        partial.replace(path)


def read_published(path: Path) -> Published | None:
    """What the file says; None where there is none, or it is damaged."""
    with contextlib.suppress(OSError, TypeError):
        found = read_object(path)
        return None if found is None else Published(**found)
    return None
