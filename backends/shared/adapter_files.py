"""LoRA adapters on disk: PEFT's format, which checkpoints hold, and mlx-lm's.

Both name a layer by its path in the model and hold two matrices for it. PEFT's `lora_A.weight` is
[rank, in] where mlx-lm's `lora_a` is [in, rank]; PEFT scales by alpha / rank (rank-stabilised: by
alpha / sqrt(rank)) where mlx-lm takes the scale itself. Converting is therefore exact, and needs
neither library. What is read may be either; what a checkpoint holds is always PEFT's.
"""

from __future__ import annotations

import contextlib
import json
import math
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from backends.shared import weight_files
from opsd_cli.errors import ModelError
from opsd_cli.hub import first_line

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MLX_WEIGHTS_FILE = "adapters.safetensors"
PREFIX = "base_model.model."
A_SUFFIX = ".lora_A.weight"
#: mlx-lm's name of a part -> PEFT's, and whether it is transposed.
_PARTS = {
    "lora_a": ("lora_A.weight", True),
    "lora_b": ("lora_B.weight", True),
    "m": ("lora_magnitude_vector", False),
}
_BACK = {theirs: (own, transposed) for own, (theirs, transposed) in _PARTS.items()}
#: Settings of adapters that do more than LoRA; neither backend supports them.
_UNSUPPORTED = (
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "lora_bias",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
#: Initialisations that move a part of the base's weights into the adapter.
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_HINT = "it must be an adapter in PEFT's format, or in mlx-lm's"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Arrays = dict[str, np.ndarray]


def to_peft(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """PEFT's name and layout of a tensor, from mlx-lm's."""
    path, _, part = name.rpartition(".")
    theirs, transposed = _PARTS[part]
    return f"{PREFIX}{path}.{theirs}", np.ascontiguousarray(array.T if transposed else array)


def to_mlx(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The opposite of `to_peft`.

    Raises:
        ModelError: the tensor is no part of a LoRA layer.
    """
    for theirs, (own, transposed) in _BACK.items():
        if name.endswith(f".{theirs}"):
            path = name.removeprefix(PREFIX).removesuffix(f".{theirs}")
            return f"{path}.{own}", np.ascontiguousarray(array.T if transposed else array)
    raise ModelError(
        f"the adapter's tensor {name} is no part of a LoRA layer",
        "only LoRA and DoRA are supported",
    )


def scale_of(settings: Mapping[str, Any]) -> float:
    """The factor of B·A."""
    rank, alpha = settings["r"], settings["lora_alpha"]
    return alpha / (math.sqrt(rank) if settings["use_rslora"] else rank)


def read_settings(folder: Path) -> dict[str, Any]:
    """The adapter's settings, by PEFT's keys; `r` an int, `use_dora` and `use_rslora` always there.

    Raises:
        ModelError: there are none, or none that mean LoRA on linear layers alone.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no adapter: {CONFIG_FILE} is missing",
            "name the folder that a checkpoint or PEFT's save_pretrained wrote",
        )
    settings = weight_files.read_object(path, "understood")
    if "lora_parameters" in settings:
        return _from_mlx(settings, folder)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} holds a {str(kind)[:40]} adapter, not LoRA", "only LoRA is supported"
        )
    _require_kinds(settings, path)
    extra = [key for key in _UNSUPPORTED if settings.get(key)]
    if settings.get("bias", "none") != "none":
        extra.append("bias")
    if extra:
        raise ModelError(
            f"the adapter in {folder} trains more than LoRA matrices: {', '.join(extra)}",
            "use an adapter on linear layers alone",
        )
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_THE_BASE):
        raise ModelError(
            f"the adapter in {folder} was begun by changing its base ({start[:40]})",
            "convert it with PEFT (path_initial_model_for_weight_conversion) and load that",
        )
    settings["lora_alpha"] = _whole(settings["lora_alpha"])
    for key in ("use_dora", "use_rslora"):
        settings[key] = bool(settings.get(key, False))
    return settings


def read_weights(folder: Path) -> Arrays:
    """The adapter's tensors by PEFT's names, float16 and wider as they are, bfloat16 as float32.

    Raises:
        ModelError: there are none, or the file is damaged.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return _tensors(folder / WEIGHTS_FILE)
    if (folder / MLX_WEIGHTS_FILE).is_file():
        return dict(to_peft(*pair) for pair in _tensors(folder / MLX_WEIGHTS_FILE).items())
    raise ModelError(
        f"{folder} holds no adapter weights: {WEIGHTS_FILE} is missing",
        "only safetensors are read; PEFT's save_pretrained writes them",
    )


def write_peft(
    folder: Path, weights: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> None:
    """Write weights and settings as PEFT reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(weights.items())), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(dict(settings), indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    permit(folder, CONFIG_FILE)


def write_mlx(folder: Path, weights: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """Write weights and settings as `mlx_lm.generate --adapter-path` reads them.

    The layers are named, since without names mlx-lm puts an adapter on every linear layer. A layer
    of the same name in a block without weights is unchanged: its B is zero.
    """
    folder.mkdir(parents=True, exist_ok=True)
    moved = dict(sorted(to_mlx(*pair) for pair in weights.items()))
    save_file(moved, folder / MLX_WEIGHTS_FILE, metadata={"format": "mlx"})
    written = {
        "model": settings.get("base_model_name_or_path"),
        "fine_tune_type": "dora" if settings["use_dora"] else "lora",
        "num_layers": -1,
        "lora_parameters": {
            "rank": settings["r"],
            "scale": scale_of(settings),
            "dropout": settings.get("lora_dropout", 0.0),
            "keys": sorted({_in_block(name.rpartition(".")[0]) for name in moved}),
        },
    }
    text = json.dumps(written, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    permit(folder, CONFIG_FILE)


def permit(folder: Path, like: str) -> None:
    """Give a folder's safetensors files the permissions of the file `like` beside them.

    safetensors renames a temporary file that only its owner may read, so the umask has no effect,
    and a server that runs as another user could not load such an adapter.
    """
    mode = stat.S_IMODE((folder / like).stat().st_mode)
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(PermissionError):  # a file system without modes
            path.chmod(mode)


def _in_block(path: str) -> str:
    """A layer's path within its block, as mlx-lm names it; outside the blocks the whole path."""
    _, inside, rest = path.partition(".layers.")
    return rest.partition(".")[2] if inside else path


def _from_mlx(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """mlx-lm's settings by PEFT's keys."""
    kind = settings.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ModelError(
            f"{folder} holds weights of mlx-lm's fine_tune_type {kind}, not LoRA",
            "only LoRA and DoRA are supported",
        )
    try:
        given = settings["lora_parameters"]
        rank, scale, dropout = given["rank"], float(given["scale"]), float(given.get("dropout", 0))
        alpha = _whole(float(f"{scale * rank:.12g}"))  # so that scale -> alpha -> scale is exact
        _require_kinds({"r": rank, "lora_alpha": alpha}, folder / CONFIG_FILE)
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise ModelError(
            f"{folder / CONFIG_FILE} cannot be understood: {first_line(error)}", _HINT
        ) from error
    layers = layers_of(read_weights(folder))
    blocks = {int(part) for path in layers for part in path.split(".") if part.isdecimal()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": settings.get("model"),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted({path.rpartition(".")[2] for path in layers}),
        # mlx-lm may have trained the last blocks alone.
        "layers_to_transform": sorted(blocks) or None,
        "use_dora": kind == "dora",
        "use_rslora": False,
        "bias": "none",
    }


def layers_of(weights: Iterable[str]) -> list[str]:
    """The paths of the layers that tensors by PEFT's names belong to, in their order."""
    return list(dict.fromkeys(layer_of(name) for name in sorted(weights)))


def layer_of(name: str) -> str:
    """The path of the layer that a tensor by PEFT's name belongs to."""
    return name.removeprefix(PREFIX).partition(".lora_")[0]


def require_rank(settings: Mapping[str, Any], weights: Mapping[str, np.ndarray], what: str) -> None:
    """Check that every rank in the settings is that of a tensor.

    Layers are made with the rank in the settings, before weights are put into them.

    Raises:
        ModelError: a rank differs; `what` names the adapter.
    """
    tensors = [array for name, array in weights.items() if name.endswith(A_SUFFIX)]
    ranks = {int(array.shape[0]) for array in tensors if array.ndim == 2}
    patterns = (settings.get("rank_pattern") or {}).values()
    for rank in (settings["r"], *patterns):
        if rank not in ranks and not (patterns and rank < max(ranks, default=0)):
            raise ModelError(
                f"{what} does not fit itself: its config says rank {rank:,}, and its tensors have "
                f"{', '.join(map(str, sorted(ranks)[:4])) or 'none'}",
                "copy both of its files from one place",
            )


def _require_kinds(settings: Mapping[str, Any], path: Path) -> None:
    """Check the types and ranges of the settings that are used; raises `ModelError`."""

    def names(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(name, str) for name in value)

    def count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def finite(value: Any) -> bool:
        return isinstance(value, int | float) and abs(value) < 1e9  # NaN is not less

    def pattern(value: Any) -> bool:
        return isinstance(value, dict) and all(
            finite(number) and number > 0 for number in value.values()
        )

    checks: dict[str, Callable[[Any], bool]] = {
        "r": lambda value: count(value) and value > 0,
        "lora_alpha": finite,
        "target_modules": lambda value: isinstance(value, str) or names(value),
        "exclude_modules": lambda value: isinstance(value, str) or names(value),
        "layers_to_transform": lambda v: count(v) or (isinstance(v, list) and all(map(count, v))),
        "layers_pattern": lambda value: isinstance(value, str) or names(value),
        "rank_pattern": lambda value: pattern(value) and all(map(count, value.values())),
        "alpha_pattern": pattern,
        "use_dora": lambda value: isinstance(value, bool),
        "use_rslora": lambda value: isinstance(value, bool),
        "fan_in_fan_out": lambda value: isinstance(value, bool),
    }
    for key, right in checks.items():
        value = settings.get(key)
        if value is None and key not in ("r", "lora_alpha"):
            continue
        if not right(value):
            raise ModelError(
                f"{path} cannot be understood: {key} is {json.dumps(value)[:80]}", _HINT
            )


def _whole(number: float) -> float:
    """A whole number as an int, as PEFT writes it."""
    return int(number) if number == int(number) else number


def _tensors(path: Path) -> Arrays:
    """The tensors of a safetensors file; bfloat16, which NumPy does not have, as float32."""
    weight_files.read_header(path, "read")
    try:
        whole = path.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        arrays = {}
        for name, entry in json.loads(whole[8:start]).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _DTYPES:
                raise ModelError(
                    f"{path} cannot be read: {name[:80]} holds {entry['dtype']}, not "
                    f"{', '.join(_DTYPES)}",
                    "adapters of floating-point numbers alone are read",
                )
            first, end = (start + offset for offset in entry["data_offsets"])
            flat = np.frombuffer(whole[first:end], _DTYPES[entry["dtype"]])
            if entry["dtype"] == "BF16":
                flat = (flat.astype("<u4") << 16).view("<f4")
            if not np.isfinite(flat).all():
                raise ModelError(
                    f"{path} is damaged: {name[:80]} holds what is not a number",
                    "copy it again, or take another checkpoint",
                )
            arrays[name] = flat.reshape(entry["shape"])
        return arrays
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read: {first_line(error)}", "the file may be cut off; copy it again"
        ) from error
