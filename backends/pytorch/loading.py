"""From what `model` names to a frozen model and its tokenizer, or one line that says why not.

transformers reports a mistyped folder as a failed download, a missing licence as a missing file,
and weights that do not belong to the architecture as a warning followed by random numbers. What
can be seen on disk is therefore looked at first, what comes back as an exception is translated by
its type, and a model any of whose weights were not found is refused.

Only safetensors are read: the older format runs code when it is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from backends.model_files import explained, quiet, require_model
from backends.tokenizer import HuggingFaceTokenizer
from opsd_cli.config import Config
from opsd_cli.errors import ModelError


@dataclass(frozen=True)
class Loaded:
    """A frozen model on the CPU, and what came with it.

    Args:
        model: transformers' causal language model.
        tokenizer: behind the shared half's surface.
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
        ModelError: there is no such model, or none that can be used, and why.
    """
    where = require_model(config.model_path)
    common = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with quiet(hide_progress=Path(where).is_dir()):
        try:
            wrapped = AutoTokenizer.from_pretrained(where, **common)
        except Exception as error:
            raise explained(error, config.model, "tokenizer") from error
        if not set(wrapped.get_vocab()) - set(wrapped.all_special_tokens):
            # For lack of files some architectures get a tokenizer that knows no text.
            raise ModelError(
                f"{config.model} has no tokenizer", "put tokenizer.json beside its config.json"
            )
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **common,
            )
        except Exception as error:
            raise explained(error, config.model, "model") from error
    absent = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if absent:
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(
            f"the weights of {config.model} do not go with its config.json: "
            f"{absent[0]}{others} missing or of another shape",
            "download the model again, whole",
        )
    model.requires_grad_(False)
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = wrapped.eos_token_id
    stops = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return Loaded(
        model=model,
        tokenizer=HuggingFaceTokenizer(wrapped),
        stop_ids=frozenset(stops),
        vocabulary=max(wrapped.get_vocab().values()) + 1,
    )


def stored_dtype(config: Config) -> torch.dtype | None:
    """What the files of `config.model` hold; None where they do not say."""
    where = require_model(config.model_path)
    common = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    named = AutoConfig.from_pretrained(where, **common).dtype
    return named if isinstance(named, torch.dtype) else None
