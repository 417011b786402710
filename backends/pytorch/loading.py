"""Loading a frozen model and its tokenizer, with each failure explained in one line.

transformers reports a mistyped folder as a failed download, a missing licence as a missing file,
and weights that do not belong to the architecture as a warning followed by random numbers. Files on
disk are therefore checked first, exceptions are translated by their type, and a model with any
weight missing is refused.

Only safetensors are read: the older format runs code when it is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from backends.shared.model_files import (
    as_model_error,
    load_tokenizer,
    model_folder,
    quiet,
    read_settings,
    stop_ids,
)
from backends.shared.tokenizer import HuggingFaceTokenizer
from backends.shared.weight_files import read_header, weight_files
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError

#: Parameters that a model may have beyond its files': buffers, unused heads.
_SLACK = 10_000_000


@dataclass(frozen=True)
class Loaded:
    """A frozen model on the CPU, its tokenizer and stop ids.

    Args:
        model: transformers' causal language model.
        tokenizer: its tokenizer.
        stop_ids: ids that end a completion.
        vocabulary: one more than the tokenizer's highest id.
    """

    model: Any
    tokenizer: HuggingFaceTokenizer
    stop_ids: frozenset[int]
    vocabulary: int


def load(config: Config, dtype: torch.dtype) -> Loaded:
    """Load `config.model` in the given dtype, every parameter frozen.

    Raises:
        ModelError: there is no such model, or it cannot be used.
    """
    folder = model_folder(config)
    wrapped = load_tokenizer(folder, config)
    _require_size(folder, config)
    with quiet(hide_progress=True):
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=config.trust_remote_code,
            )
        except Exception as error:
            raise as_model_error(error, config.model, "model") from error
    absent = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if absent:
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(
            f"the weights of {config.model} do not go with its config.json: "
            f"{absent[0]}{others} missing or of another shape",
            "download the model again, whole",
        )
    model.requires_grad_(False)
    rows = len(model.get_input_embeddings().weight)
    return Loaded(
        model=model,
        tokenizer=HuggingFaceTokenizer(wrapped, rows),
        stop_ids=stop_ids(folder, read_settings(str(folder), None), wrapped),
        vocabulary=max(wrapped.get_vocab().values()) + 1,
    )


def _require_size(folder: Path, config: Config) -> None:
    """Refuse a config.json that describes a model far larger than its weights.

    transformers would initialise what the files lack, in more memory than a machine has.
    """
    with quiet(hide_progress=True), torch.device("meta"):
        try:
            described = AutoConfig.from_pretrained(
                folder, trust_remote_code=config.trust_remote_code
            )
            if getattr(described, "quantization_config", None) is not None:
                return  # a packed number holds several
            empty = AutoModelForCausalLM.from_config(
                described, trust_remote_code=config.trust_remote_code
            )
        except Exception as error:
            raise as_model_error(error, config.model, "model") from error
    wanted = sum(parameter.numel() for parameter in empty.parameters())
    there = sum(read_header(path).values for path in weight_files(folder))
    if wanted > 2 * there + _SLACK:
        raise ModelError(
            f"the weights of {config.model} do not go with its config.json: it describes "
            f"{wanted:,} numbers, and the files hold {there:,}",
            "download the model again, whole",
        )
