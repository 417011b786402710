"""Rotary position embeddings as transformers defines them: frequencies, and both spellings.

transformers 5 writes base and scaling under one key, `rope_parameters`, by layer type where types
differ; before it, and in most of mlx-lm, they are `rope_theta`, `rope_scaling`,
`partial_rotary_factor` and `rope_local_base_freq`. A reader that knows one spelling and is given
the other silently takes its defaults, so what is written here has both, and what is read is checked
against the frequencies below.

Frequencies are computed in NumPy's float64: a machine with MLX need not have PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LOCAL, GLOBAL = "sliding_attention", "full_attention"
#: Kinds of scaling whose frequencies are implemented here.
KNOWN_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")
#: Keys of `rope_parameters` that the older spelling holds beside `rope_scaling`.
_BESIDE = ("rope_theta", "partial_rotary_factor", "rope_type", "type")


@dataclass(frozen=True)
class Rotation:
    """The rotation of a head at position 1.

    Args:
        frequencies: radians per position of each rotated pair, [rotated / 2]; 0 does not rotate.
        factor: queries and keys are multiplied by it.
    """

    frequencies: np.ndarray
    factor: float = 1.0

    def matrices(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The [width, width] matrices that row vectors of a head are multiplied by at position 1.

        The first pairs component i with the one half a rotated head away, the second pairs
        neighbours. Which of the two an architecture means is in its code, not in its config.
        """
        pairs = len(self.frequencies)
        cos, sin = np.cos(self.frequencies), np.sin(self.frequencies)
        both = []
        index = np.arange(pairs)
        for first, second in ((index, index + pairs), (2 * index, 2 * index + 1)):
            matrix = np.eye(width)
            matrix[first, first] = matrix[second, second] = cos * self.factor
            matrix[first, second], matrix[second, first] = sin * self.factor, -sin * self.factor
            both.append(matrix)
        return both[0], both[1]


def for_layer(config: Any, layer: int) -> Mapping[str, Any] | None:
    """The rotary parameters of one layer of transformers' config; None where it names none."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return None
    types = getattr(config, "layer_types", None)
    if types and any(kind in parameters for kind in types):
        return parameters.get(types[layer])
    return parameters


def rotation(parameters: Mapping[str, Any], config: Any, width: int) -> Rotation | None:
    """The rotation of one layer as transformers computes it; None for an unknown kind of scaling.

    Sequences are taken to stay within the length that the model was trained on, where the scaling
    depends on it.

    Args:
        parameters: of the layer, see `for_layer`.
        config: transformers' config of the decoder.
        width: components of a head that could be rotated.

    Raises:
        KeyError, TypeError, ValueError: a parameter is missing or unusable.
    """
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in KNOWN_TYPES:
        return None
    base = float(parameters["rope_theta"])
    share = float(parameters.get("partial_rotary_factor") or 1.0)
    if kind == "proportional":
        rotated = 2 * int(share * width // 2)
        frequencies = np.zeros(width // 2)
        frequencies[: rotated // 2] = base ** -(np.arange(0, rotated, 2) / width)
        return Rotation(frequencies / float(parameters.get("factor") or 1.0))
    rotated = int(width * share)
    plain = base ** -(np.arange(0, rotated, 2) / rotated)
    if kind in ("default", "dynamic"):
        return Rotation(plain)
    if kind == "linear":
        return Rotation(plain / float(parameters["factor"]))
    trained_on = float(parameters["original_max_position_embeddings"])
    factor = parameters.get("factor")
    if factor is None:
        factor = config.max_position_embeddings / trained_on
    factor = float(factor)
    if kind == "llama3":
        return Rotation(_llama3(plain, factor, trained_on, parameters))
    scale = parameters.get("attention_factor")
    if kind == "yarn":
        scale = _yarn_scale(factor, parameters) if scale is None else float(scale)
        return Rotation(_yarn(plain, base, factor, trained_on, parameters), scale)
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained_on))
    return Rotation(plain / np.asarray(parameters["short_factor"], float), float(scale))


def _llama3(
    plain: np.ndarray, factor: float, trained_on: float, parameters: Mapping[str, Any]
) -> np.ndarray:
    """Long wavelengths are stretched by the factor, short ones left, those between blended."""
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    turns = trained_on * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * plain / factor + kept * plain


def _yarn(
    plain: np.ndarray,
    base: float,
    factor: float,
    trained_on: float,
    parameters: Mapping[str, Any],
) -> np.ndarray:
    """Pairs that turn often within the trained length are left, slow ones stretched."""
    rotated = 2 * len(plain)

    def pair_that_turns(times: float) -> float:
        return rotated * math.log(trained_on / (times * 2 * math.pi)) / (2 * math.log(base))

    first = pair_that_turns(float(parameters.get("beta_fast") or 32))
    last = pair_that_turns(float(parameters.get("beta_slow") or 1))
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotated - 1)
    if first == last:
        last += 0.001
    stretched = np.clip((np.arange(len(plain)) - first) / (last - first), 0, 1)
    return stretched * plain / factor + (1 - stretched) * plain


def _yarn_scale(factor: float, parameters: Mapping[str, Any]) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    weight, of_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return scale(weight) / scale(of_all) if weight and of_all else scale(1.0)


def older_keys(config: Any) -> dict[str, Any]:
    """The older spelling of what transformers' config says, for one level of config.json.

    `rope_scaling` is None where nothing is scaled, so that a stale one beside it is overruled.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return {}
    types = set(getattr(config, "layer_types", None) or ())
    nested = {kind: parameters[kind] for kind in types if isinstance(parameters.get(kind), dict)}
    everywhere = nested.get(GLOBAL) if nested else parameters
    keys: dict[str, Any] = {}
    if everywhere:
        kind = everywhere.get("rope_type") or everywhere.get("type") or "default"
        scaling = {key: value for key, value in everywhere.items() if key not in _BESIDE}
        keys["rope_theta"] = everywhere.get("rope_theta")
        keys["rope_scaling"] = None
        if kind != "default" or "mrope_section" in scaling:
            keys["rope_scaling"] = {**scaling, "type": kind, "rope_type": kind}
        if everywhere.get("partial_rotary_factor") is not None:
            keys["partial_rotary_factor"] = everywhere["partial_rotary_factor"]
    if LOCAL in nested:
        keys["rope_local_base_freq"] = nested[LOCAL].get("rope_theta")
    pattern = window_pattern(config)
    if pattern is not None:
        keys["sliding_window_pattern"] = pattern
    return keys


def window_pattern(config: Any) -> int | None:
    """Number of layers from one with full attention to the next: the older `layer_types`.

    None if the layers have no such period.
    """
    types = list(getattr(config, "layer_types", None) or ())
    if set(types) != {LOCAL, GLOBAL}:
        return None
    every = types.index(GLOBAL) + 1
    repeated = ([LOCAL] * (every - 1) + [GLOBAL]) * len(types)
    return every if types == repeated[: len(types)] else None


def same(one: Any, other: Any) -> bool:
    """True if two of transformers' configs have the same rotation and attention windows."""

    def meant(config: Any) -> Any:
        decoder = config.get_text_config(decoder=True)
        types = getattr(decoder, "layer_types", None)
        return _without_type(getattr(decoder, "rope_parameters", None)), types

    return meant(one) == meant(other)


def _without_type(parameters: Any) -> Any:
    """Without the oldest name of `rope_type`, which is kept beside it where it was given."""
    if not isinstance(parameters, dict):
        return parameters
    return {key: _without_type(value) for key, value in parameters.items() if key != "type"}


def with_both_spellings(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """A config.json with `rope_parameters` and the older keys, which say the same.

    Args:
        settings: as read from the file.
        config: what transformers made of it.
    """
    written = dict(settings)
    decoder = config.get_text_config(decoder=True)
    if decoder is not config and isinstance(settings.get("text_config"), dict):
        written["text_config"] = _level(settings["text_config"], decoder)
        return written
    return _level(written, decoder)


def _level(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    keys = older_keys(config)
    if not keys:
        return dict(settings)
    return {**settings, "rope_parameters": config.to_dict()["rope_parameters"], **keys}


def newer_spelling_alone(settings: Mapping[str, Any]) -> bool:
    """True if a reader of the older spelling would miss a config.json's rotary embedding."""
    level = settings.get("text_config")
    level = level if isinstance(level, dict) else settings
    return bool(level.get("rope_parameters")) and level.get("rope_theta") is None
