"""Loading a frozen MLX model and its tokenizer, with each failure explained in one line.

Models are loaded by mlx-lm, quantised ones as they are; tokenizers by transformers, as on PyTorch,
so that both backends render and encode in the same way.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten
from mlx_lm.utils import (
    dequantize_model,
    load_model,
    quantize_model,
    save_config,
    save_model,
)

from backends.mlx.generation import require_batches
from backends.mlx.model_config import (
    as_mlx_lm_reads_it,
    require_same_meaning,
    with_exact_embedding_scale,
)
from backends.mlx.split_model import SplitModel
from backends.shared.model_files import (
    as_model_error,
    load_tokenizer,
    model_folder,
    read_settings,
    stop_ids,
    transformers_config,
    write_both_spellings,
)
from backends.shared.quantization import GROUP, quantised_already
from backends.shared.tokenizer import HuggingFaceTokenizer
from backends.shared.tokenizer_files import save_tokenizer
from backends.shared.weight_files import stored_dtype
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from opsd_cli.hub import first_line

GENERATION_CONFIG = "generation_config.json"
#: A parameter's name in mlx's messages.
_PARAMETER = re.compile(r"[\w.]+\.(?:weight|bias|scales|biases)\b")


@dataclass(frozen=True)
class Loaded:
    """A frozen model, its tokenizer, stop ids and folder."""

    split_model: SplitModel
    tokenizer: HuggingFaceTokenizer
    stop_ids: frozenset[int]
    folder: Path


def load(config: Config, bits: int | None = None) -> Loaded:
    """Load `config.model`.

    Args:
        bits: of each weight of its linear layers and embedding; None leaves them as stored.

    Raises:
        ModelError: there is no such model, or it cannot be used.
    """
    folder = model_folder(config)
    wrapped = load_tokenizer(folder, config)
    model, settings = _model(config, folder)
    _set_dtype(model, config)
    if bits is not None:
        model, settings = _quantised(model, settings, bits, config.model)
    vocabulary = max(wrapped.get_vocab().values()) + 1
    split_model = SplitModel(model, settings, vocabulary)
    split_model.require_same_logits(config.model)
    require_batches(split_model)
    stops = stop_ids(folder, settings, wrapped)
    tokenizer = HuggingFaceTokenizer(wrapped, split_model.rows)
    return Loaded(split_model, tokenizer, stops, folder)


def save_merged(
    split_model: SplitModel, folder: Path, base: Path, tokenizer: Any, dtype: str | None
) -> None:
    """Write a model with its LoRA layers merged into the weights, and its tokenizer.

    Never quantised: quantising the sum again can round a weak adapter away.

    Args:
        folder: to write to.
        base: the folder of the base model.
        dtype: of the written weights; None for that of the base.
    """
    fused = [
        (path, layer.fuse(dequantize=True))
        for path, layer in split_model.model.named_modules()
        if hasattr(layer, "fuse")
    ]
    split_model.model.update_modules(tree_unflatten(fused))
    model = dequantize_model(split_model.model)
    settings = read_settings(str(base), None)
    for key in ("quantization", "quantization_config"):
        settings.pop(key, None)
    dtype = dtype or stored_dtype(base)
    model.set_dtype(getattr(mx, dtype))
    for level in (settings, settings.get("text_config")):
        if isinstance(level, dict) and (level is settings or "dtype" in level):
            level.pop("torch_dtype", None)
            level["dtype"] = dtype
    save_model(folder, model)
    save_config(settings, folder / "config.json")
    write_both_spellings(folder)
    save_tokenizer(tokenizer, base, folder)
    if (base / GENERATION_CONFIG).is_file():
        shutil.copyfile(base / GENERATION_CONFIG, folder / GENERATION_CONFIG)


def _model(config: Config, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model, its weights not yet read, and the settings that it was built from."""
    meant = transformers_config(folder, config)
    settings = as_mlx_lm_reads_it(read_settings(str(folder), None), meant)
    try:
        model, settings = load_model(
            folder,
            lazy=True,
            model_config=settings,
            trust_remote_code=config.trust_remote_code,
        )
    except (Exception, SystemExit) as error:  # a module of mlx-lm's ends the process
        raise _refusal(error, config.model) from error
    require_same_meaning(model, meant, config.model)
    with_exact_embedding_scale(model)
    return model, settings


def _quantised(
    model: Any, settings: dict[str, Any], bits: int, name: str
) -> tuple[Any, dict[str, Any]]:
    """The model with weights of so many bits, by mlx-lm.

    Raises:
        ModelError: it is quantised already.
    """
    if settings.get("quantization"):
        raise quantised_already(name)
    with contextlib.redirect_stdout(None):  # it prints the bits per weight
        model, settings = quantize_model(model, settings, group_size=GROUP, bits=bits)
    mx.eval(model.parameters())
    return model, settings


def _refusal(error: BaseException, name: str) -> ModelError:
    """The `ModelError` that explains an exception of mlx-lm's in one line."""
    text = str(error)
    if isinstance(error, ValueError) and text.startswith("Model type"):
        return ModelError(
            f"{name} is not a causal language model that mlx-lm supports: "
            f"{first_line(error).rstrip('.').lower()}",
            "choose one that it does, or try the PyTorch backend (--backend cpu)",
        )
    if isinstance(error, ValueError) and ("parameters" in text or "shape" in text):
        named = _PARAMETER.findall(text)
        others = f" and {len(named) - 1} more" if len(named) > 1 else ""
        return ModelError(
            f"the weights of {name} do not go with its config.json: "
            f"{named[0] if named else first_line(error)}{others} missing, too many or of another "
            "shape",
            "download the model again, whole",
        )
    if "trust_remote_code" in text and isinstance(error, Exception):
        return as_model_error(error, name, "model")
    if isinstance(error, SystemExit):
        return ModelError(
            f"{name} needs a package of its own on MLX, which is not installed",
            "use the PyTorch backend (--backend cpu or cuda)",
        )
    return ModelError(
        f"the model of {name} cannot be loaded: {first_line(error)}",
        "run with --debug for the whole story",
    )


def _set_dtype(model: Any, config: Config) -> None:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, as on PyTorch."""
    wanted = config.train.dtype
    if wanted == "auto":
        wanted = "float32" if mx.default_device() == mx.cpu else "bfloat16"
    model.set_dtype(mx.float32 if wanted == "float32" else mx.bfloat16)
    mx.eval(model.parameters())
