"""An mlx-lm model split into decoder and output head.

As on PyTorch, decoding needs the last position alone and the loss needs the completion's positions
chunk by chunk, so the decoder and the head are called apart; `require_same_logits` compares the
two with the model's own forward pass when a model is loaded. The head may be quantised: the
gradient goes back through it by a quantised product too, and it is never dequantised in full.

The model families under test are tests/support/tiny_models.py::FAMILIES, the chat templates
tests/support/chat_models.py::FAMILIES; CONTRIBUTING.md has the steps that add a family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from opsd_cli.errors import ModelError

_EMBEDDINGS = ("embed_tokens", "tok_embeddings", "word_embeddings", "embeddings", "wte")


class Head:
    """The frozen output projection, over the `vocabulary` ids that the tokenizer knows."""

    def __init__(self, layer: Any, vocabulary: int, softcap: float | None, scale: float) -> None:
        self.vocabulary = min(vocabulary, layer.weight.shape[0])
        self.softcap = softcap
        self.scale = scale
        self._weight = layer.weight[: self.vocabulary]
        self._bias = layer.bias[: self.vocabulary] if "bias" in layer else None
        self._quantised: dict[str, Any] | None = None
        if "scales" in layer:
            self._quantised = {
                "scales": layer.scales[: self.vocabulary],
                "biases": layer.biases[: self.vocabulary] if "biases" in layer else None,
                "group_size": layer.group_size,
                "bits": layer.bits,
                "mode": getattr(layer, "mode", "affine"),
            }

    def logits(self, hidden_ND: mx.array) -> mx.array:
        """[N, vocabulary], in the dtype of the hidden states' product with the head."""
        hidden_ND = hidden_ND * self.scale if self.scale != 1.0 else hidden_ND
        logits_NV = self._product(hidden_ND, transpose=True)
        if self._bias is not None:
            logits_NV = logits_NV + self._bias
        if self.softcap is not None:
            logits_NV = mx.tanh(logits_NV / self.softcap) * self.softcap
        return logits_NV

    def back(self, gradient_NV: mx.array, logits_NV: mx.array) -> mx.array:
        """Gradient with respect to the hidden states, [N, D], from that of the logits."""
        if self.softcap is not None:
            gradient_NV = gradient_NV * (1.0 - (logits_NV / self.softcap) ** 2)
        gradient_ND = self._product(gradient_NV.astype(logits_NV.dtype), transpose=False)
        return gradient_ND * self.scale if self.scale != 1.0 else gradient_ND

    def _product(self, x: mx.array, transpose: bool) -> mx.array:
        if self._quantised is not None:
            return mx.quantized_matmul(x, self._weight, transpose=transpose, **self._quantised)
        return x @ (self._weight.T if transpose else self._weight)


class SplitModel:
    """Hidden states and logits of an mlx-lm language model.

    Args:
        model: as `mlx_lm` loads it; LoRA layers are added later.
        settings: its config.json.
        vocabulary: token ids the tokenizer knows; rows of the head beyond are padding.

    Raises:
        ModelError: it has no output head.
    """

    def __init__(self, model: Any, settings: dict[str, Any], vocabulary: int) -> None:
        self.model = model
        self.settings: dict[str, Any] = settings | settings.get("text_config", {})
        inner = getattr(model, "language_model", model)
        decoder: Any = getattr(inner, "model", None)
        layer: Any = getattr(inner, "lm_head", None)
        if layer is None and decoder is not None:
            layer = getattr(decoder, "embed_tokens", None)
        if decoder is None or layer is None:
            raise ModelError(
                f"the MLX model of type {self.settings.get('model_type')} has no output head that "
                "can be told apart",
                "use another architecture, or the PyTorch backend",
            )
        self._decoder = decoder
        names = (name for name in _EMBEDDINGS if name in decoder)
        self._embedding: Any = next((decoder[name] for name in names), None)
        #: The head's own module: no adapter may be put on it.
        self.head_layer = layer
        scale = self.settings.get("logit_scale") or 1.0
        scale /= self.settings.get("logits_scaling") or 1.0
        softcap = self.settings.get("final_logit_softcapping")
        self.head = Head(layer, vocabulary, softcap, scale)
        model.eval()
        #: Hidden size, D, of the head's inputs; nothing is computed to learn it.
        self.width: int = self.hidden(mx.zeros((1, 1), mx.int32)).shape[-1]

    @property
    def context_limit(self) -> int | None:
        """The most positions of a sequence by the model's config; None if it does not say."""
        limit = self.settings.get("max_position_embeddings")
        return int(limit) if limit else None

    def hidden(self, ids_BL: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """The head's inputs at every position, [B, L, D].

        Args:
            ids_BL: token ids; padding on the right changes nothing before it.
            cache: keys and values of earlier columns, extended in place.
        """
        return self._decoder(ids_BL, cache=None if cache is None else list(cache))

    @property
    def vocabulary(self) -> int:
        """Token ids that the head scores."""
        return self.head.vocabulary

    def narrow(self, vocabulary: int) -> None:
        """Score only the first `vocabulary` ids from now on."""
        self.head = Head(self.head_layer, vocabulary, self.head.softcap, self.head.scale)

    def new_cache(self) -> list[Any]:
        """An empty cache for one sequence, one part per layer."""
        return make_prompt_cache(self.model)

    @property
    def rows(self) -> int | None:
        """Rows of the embedding; None if it cannot be found."""
        return None if self._embedding is None else int(self._embedding.weight.shape[0])

    def require_same_logits(self, name: str) -> None:
        """Check that decoder and head apart give the model's own logits, and that all is finite.

        Raises:
            ModelError: they do not, or a weight is NaN or infinite, which only some completions
                would show.
        """
        ids_1L = mx.arange(min(3, self.head.vocabulary))[None]
        theirs_LV = self.model(ids_1L)[0].astype(mx.float32)[:, : self.head.vocabulary]
        ours_LV = self.head.logits(self.hidden(ids_1L)[0]).astype(mx.float32)
        weights = (array for _, array in tree_flatten(self.model.parameters()))
        numbers = [theirs_LV, *(a for a in weights if mx.issubdtype(a.dtype, mx.floating))]
        if not all(bool(mx.isfinite(array).all()) for array in numbers):
            raise ModelError(
                f"the weights of {name} are damaged: they hold or give what is not a number",
                "download the model again, whole",
            )
        allowed = 0.05 * mx.abs(theirs_LV).max() + 1e-6
        if bool((mx.abs(ours_LV - theirs_LV) > allowed).any()):
            raise ModelError(
                f"the MLX model of type {self.settings.get('model_type')} changes its logits in a "
                "way that is not supported",
                "models whose output head is linear, soft-capped or scaled by a constant work",
            )

    def enable_checkpointing(self) -> None:
        """Recompute the activations of each block in the backward pass."""
        for layer in self.model.layers:
            layer.__class__ = _checkpointed(type(layer))

    def linear_layers(self) -> dict[str, nn.Module]:
        """Linear layers that can have an adapter, by their path, from the first block to the last.

        Gradients are computed in this order, and it decides the memory: asked for the last block's
        first, MLX recomputes every checkpointed block before it uses any.
        """
        linear = {
            path: module
            for path, module in self.model.named_modules()
            if isinstance(module, nn.Linear | nn.QuantizedLinear) and module is not self.head_layer
        }
        return {path: linear[path] for path in sorted(linear, key=_place)}


def _place(path: str) -> list[tuple[bool, int, str]]:
    """Sort key by which block 2 is before block 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.split(".")]


def _checkpointed(plain: type[nn.Module]) -> type[nn.Module]:
    """A block's class that recomputes its activations in the backward pass, except in decoding.

    A class of its own for one model's blocks: mlx-lm's `grad_checkpoint` patches the architecture's
    class, and with it every other model of that kind in the process.
    """

    class Checkpointed(plain):
        def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> Any:
            if any(a is not None and not isinstance(a, mx.array | str) for a in args):
                return plain.__call__(self, x, *args, **kwargs)  # a cache

            def block(parameters: dict[str, Any], x: mx.array) -> Any:
                self.update(parameters)
                return plain.__call__(self, x, *args, **kwargs)

            return mx.checkpoint(block)(self.trainable_parameters(), x)

    return Checkpointed
