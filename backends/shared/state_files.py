"""The training state of a checkpoint beside its adapter: `optimizer.safetensors`.

Either backend reads what the other wrote. Names: `step`; `exp_avg.NAME` and `exp_avg_sq.NAME`, the
moments; `ema.NAME`, the moving average; and `start.NAME`, the adapter that the run started from.
NAME is PEFT's. Older files also have `random.KIND`, a random generator's state, which is not read:
every random number of a run is derived from its seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from backends.shared.adapter_files import CONFIG_FILE, Arrays, permit
from opsd_cli.errors import ModelError
from opsd_cli.hub import first_line

OPTIMIZER_FILE = "optimizer.safetensors"


def write_state(folder: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write the state into a folder that holds the adapter already."""
    save_file(dict(state), folder / OPTIMIZER_FILE, metadata={"format": "pt"})
    permit(folder, CONFIG_FILE)


def read_state(folder: Path) -> Arrays:
    """The state in a folder.

    Raises:
        ModelError: there is none, or the file is damaged.
    """
    path = folder / OPTIMIZER_FILE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read: {first_line(error)}", "resume from another checkpoint"
        ) from error


def entry(
    state: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], what: str
) -> np.ndarray:
    """`state[name]`.

    Raises:
        ModelError: it is missing or of another shape; `what` names the state.
    """
    if name not in state or state[name].shape != shape:
        raise ModelError(
            f"{what} does not fit this run: {name} is missing or of another shape",
            "resume with the config that the run was started with",
        )
    return state[name]


def section(
    state: Mapping[str, np.ndarray], prefix: str, like: Mapping[str, np.ndarray], what: str
) -> Arrays:
    """The arrays `prefix.NAME` of a state, for every NAME of `like`.

    Raises:
        ModelError: one is missing or of another shape than in `like`; `what` names the state.
    """
    return {
        name: entry(state, f"{prefix}.{name}", array.shape, what) for name, array in like.items()
    }


def prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The opposite of `section`."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}
