"""Makes an mlx-lm model compute what transformers computes from its config.json, or refuses it.

mlx-lm builds a model from those keys of config.json that its class for the architecture declares.
Every other key is silently dropped, and for an absent key mlx-lm's default applies, which is not
always transformers'. So the config is read by transformers first; mlx-lm is given every value under
each spelling that it may look for (`as_mlx_lm_reads_it`); and the model is checked against the
config (`require_same_meaning`): rotation and attention window by what the layers compute, the other
keys by name.

Keys are distinguished by name: of the hundreds in use only some change what a model computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from backends.shared import rotary
from opsd_cli.errors import ModelError

#: Names of `rope_parameters`' values in older classes of mlx-lm.
_ALIASES = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
#: Keys that can change what a model computes.
_MATTERS = re.compile(
    r"rotary|softcap|scal(e|ing|ar)|multiplier|norm|(^|_)eps|epsilon|bias|(^|_)act(ivation)?($|_)"
    r"|hidden_act|head_dim|attention|(^|_)attn|causal|alibi|residual|clip|top_?k|tie_"
)
#: Of those, the ones that do not while a trained model is used, or are checked in another way.
_HARMLESS = re.compile(
    r"dropout|^initiali[sz]er|_init|attn_implementation|^output_|^use_cache$|router_aux|^rope_|"
    r"^layer_types$|^num_attention_heads$|^tie_word_embeddings$|^top_k$"
)
_SAME_ACTIVATION = {
    "swish": "silu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_fast": "gelu_pytorch_tanh",
    "gelu_python": "gelu",
}
_ROTARY_NAMES = ("rope", "rotary_emb", "rotary")
_TOLERANCE = 1e-3


def as_mlx_lm_reads_it(settings: Mapping[str, Any], config: Any | None) -> dict[str, Any]:
    """config.json with each value that transformers knows, under every name mlx-lm looks for.

    Args:
        settings: config.json.
        config: transformers' config of it; None for an architecture that it does not know.
    """
    if config is None:
        return dict(settings)
    written = rotary.with_both_spellings(settings, config)
    decoder = config.get_text_config(decoder=True)
    nested = decoder is not config and isinstance(written.get("text_config"), dict)
    level = written["text_config"] if nested else written
    for key, value in decoder.to_dict().items():
        if level.get(key) is None and value is not None:
            level[key] = value
    for alias, key in _ALIASES.items():
        if alias not in level and level.get(key) is not None:
            level[alias] = level[key]
    if decoder.model_type == "gemma2":  # whose class of mlx-lm has no way to say "none"
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            level[key] = getattr(decoder, key, None)
    return written


def with_exact_embedding_scale(model: Any) -> None:
    """Undo the rounding of Gemma 3's embedding scale, which mlx-lm rounds to bfloat16 in any dtype.

    transformers rounds the square root of the hidden size to the weights' dtype: with hidden states
    of 640 numbers in float32 mlx-lm's logits are off by 0.6 otherwise.
    """
    decoder: Any = getattr(getattr(model, "language_model", model), "model", None)
    if type(decoder).__module__ != "mlx_lm.models.gemma3_text":
        return
    embedding = decoder.embed_tokens
    exact = mx.array(decoder.args.hidden_size**0.5, mx.float32)
    rounded = exact.astype(mx.bfloat16).astype(mx.float32)
    plain: Any = type(embedding)

    class Exact(plain):
        def __call__(self, ids: mx.array) -> mx.array:
            rows = plain.__call__(self, ids)
            if rows.dtype == mx.bfloat16:
                return rows
            return rows * (exact.astype(rows.dtype) / rounded.astype(rows.dtype))

    embedding.__class__ = Exact


def require_same_meaning(model: Any, config: Any | None, name: str) -> None:
    """Check that mlx-lm's model is the one that transformers' config describes.

    Args:
        model: mlx-lm's, before its weights are evaluated.
        config: transformers'.
        name: of the model, for the message.

    Raises:
        ModelError: it is not.
    """
    if config is None:
        return
    inner = getattr(model, "language_model", model)
    decoder = config.get_text_config(decoder=True)
    wrong = (
        _rotation_differs(inner, decoder)
        or _window_differs(model, decoder)
        or _key_ignored(getattr(inner, "args", None), decoder)
    )
    if wrong:
        raise ModelError(
            f"mlx-lm's {decoder.model_type} would not compute what the config.json of {name} says: "
            f"{wrong}",
            "use the PyTorch backend (--backend cpu or cuda), or another model",
        )


def _rotation_differs(model: Any, config: Any) -> str | None:
    """How some layer's rotary embedding differs; None if none does."""
    width = _head_width(config)
    if width is None:
        return None
    without = getattr(config, "no_rope_layers", None) or ()
    wanted: dict[str, Any] = {}
    found: dict[str, np.ndarray | None] = {}
    for index, layer in enumerate(getattr(model, "layers", ())):
        if index < len(without) and not without[index]:
            continue
        parameters = rotary.for_layer(config, index)
        module = _rotary_module(layer)
        if parameters is None or module is None:
            continue
        if getattr(config, "qk_rope_head_dim", None):  # already the rotated share
            parameters = {k: v for k, v in parameters.items() if k != "partial_rotary_factor"}
        kind = repr(sorted(parameters.items(), key=repr))
        if kind not in wanted:
            try:
                rotation = rotary.rotation(parameters, config, width)
                wanted[kind] = rotation and rotation.matrices(width)
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                return f"rope_parameters cannot be used ({type(error).__name__}: {error})"
        # Layers of one kind share a class and its arguments: one that differs shows in its own.
        mark = f"{kind}{vars(module)!r}{sorted(_scalars(module).items())!r}"
        if mark not in found:
            found[mark] = _turned(module, width)
        ours, theirs = wanted[kind], found[mark]
        if ours is None or theirs is None:
            continue
        if not any(np.allclose(theirs, m, rtol=_TOLERANCE, atol=_TOLERANCE**3) for m in ours):
            spelled = ", ".join(f"{key} {value}" for key, value in sorted(parameters.items()))
            return f"its rotary embedding of layer {index} is not that of {spelled[:160]}"
    return None


def _head_width(config: Any) -> int | None:
    """Components of a head that could be rotated; None if they differ by layer."""
    try:
        width = getattr(config, "qk_rope_head_dim", None) or getattr(config, "head_dim", None)
        return int(width or config.hidden_size // config.num_attention_heads)
    except Exception:  # no attention, or a width by layer, of which transformers raises its own
        return None


def _rotary_module(layer: Any) -> Any | None:
    for path, module in layer.named_modules():
        if path.rpartition(".")[2] in _ROTARY_NAMES and callable(module):
            return module
    return None


def _scalars(module: Any) -> dict[str, Any]:
    return {key: value for key, value in module.items() if not isinstance(value, mx.array)}


def _turned(module: Any, width: int) -> np.ndarray | None:
    """A rotary module applied to each unit vector at position 1, [width, width]."""
    try:
        turned = module(mx.eye(width)[None, :, None, :], offset=1)
    except (TypeError, ValueError):  # one that is called in another way
        return None
    return np.array(turned.astype(mx.float32))[0, :, 0, :].astype(float)


def _window_differs(model: Any, config: Any) -> str | None:
    """How some layer's attention window differs; None if none does."""
    try:
        caches = make_prompt_cache(model)
    except Exception:  # what it needs may come with its weights; the other checks remain
        return None
    limit = getattr(config, "max_position_embeddings", None)
    for index, cache in enumerate(caches):
        if type(cache) not in (KVCache, RotatingKVCache):
            continue
        theirs = cache.max_size if isinstance(cache, RotatingKVCache) else None
        ours = _window(config, index)
        if ours is not None and limit is not None and ours >= limit:
            ours = None
        if theirs is not None and limit is not None and theirs >= limit:
            theirs = None
        if ours != theirs:
            said = "none" if ours is None else f"sliding_window {ours}"
            read = "none" if theirs is None else str(theirs)
            return f"layer {index} has {said}, and mlx-lm gives it {read}"
    return None


def _window(config: Any, layer: int) -> int | None:
    """The tokens that a layer attends to, by transformers' config; None for all of them."""
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return None
    types = getattr(config, "layer_types", None)
    if types:
        return int(window) if types[layer] == rotary.LOCAL else None
    return int(window)


def _key_ignored(args: Any, config: Any) -> str | None:
    """A key that changes transformers' model and that mlx-lm's class ignores; None: no such key."""
    if args is None:
        return None
    try:
        usual = type(config)().to_dict()
    except Exception:  # a class of the model's own whose arguments have no defaults
        return None
    for key, value in config.to_dict().items():
        if key not in usual or not _MATTERS.search(key) or _HARMLESS.search(key):
            continue
        if not isinstance(value, bool | int | float | str | None):
            continue
        if hasattr(args, key):
            theirs = getattr(args, key)
            if isinstance(theirs, bool | int | float | str) and not _same(theirs, value):
                return f"{key} is {_shown(value)}, and mlx-lm takes {_shown(theirs)}"
            continue
        if key == "head_dim" and value in (None, config.hidden_size // config.num_attention_heads):
            continue
        if not _same(value, usual[key]):
            return f"{key} is {_shown(value)}, and mlx-lm does not read that key"
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return _SAME_ACTIVATION.get(a, a) == _SAME_ACTIVATION.get(b, b)
    if not a and not b:
        return True
    if a is None or b is None:
        return False
    return bool(np.isclose(float(a), float(b), rtol=1e-6, atol=0))


def _shown(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
