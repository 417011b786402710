"""A transformers causal language model split into decoder and output head.

`model(ids).logits` is too much for both decoding, which needs the last position alone, and the
loss, which needs the completion's positions chunk by chunk. So the decoder and the head are called
apart. What a model's own `forward` does between the two (a soft cap, a constant factor) has to be
repeated here, and a model that does something else there would silently train on wrong numbers;
`require_same_logits` compares the two on a few tokens when a model is loaded.

Dropout belongs to the adapter alone. Some architectures bring their own, which would make even a
frozen model noisy, so the model stays in evaluation mode and only LoRA's layers are switched, with
those that gradient checkpointing asks to be in training mode before it does anything.

The model families under test are tests/support/tiny_models.py::FAMILIES, the chat templates
tests/support/chat_models.py::FAMILIES; CONTRIBUTING.md has the steps that add a family.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from backends.pytorch.cache import new_cache
from backends.pytorch.head import Head
from backends.pytorch.sharding import local
from opsd_cli.errors import ModelError


class SplitModel:
    """Hidden states and logits of a transformers causal language model.

    Args:
        model: the model, LoRA layers and all, but not PEFT's wrapper around it.
        vocabulary: token ids the tokenizer knows; rows of the head beyond are padding.
        autocast: dtype of the matrix products where the adapter's dtype differs from the base's.

    Raises:
        ModelError: it has no output head.
    """

    def __init__(self, model: Any, vocabulary: int, autocast: torch.dtype | None) -> None:
        layer = model.get_output_embeddings()
        if layer is None:
            raise ModelError(
                f"{type(model).__name__} has no output head over a vocabulary",
                "choose a causal language model",
            )
        config = model.config.get_text_config(decoder=True)
        self.model = model
        self.config = config
        self.decoder = model.get_decoder()
        # transformers 5.24 renames the argument; a model's own code may keep the older name.
        names = inspect.signature(self.decoder.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.vocabulary = min(vocabulary, len(layer.weight))
        self.head = Head(layer.weight, getattr(layer, "bias", None), softcap, self.vocabulary)
        # Cohere multiplies its logits by a constant, Granite divides; a linear head lets either
        # be applied to the hidden state.
        self.scale = getattr(config, "logit_scale", None) or 1.0
        self.scale /= getattr(config, "logits_scaling", None) or 1.0
        self.autocast = autocast
        self._training = False
        self._checkpoints = False
        model.eval()

    @property
    def device(self) -> torch.device:
        return self.head.weight_VD.device

    @property
    def context_limit(self) -> int | None:
        """The most positions of a sequence by the model's config; None if it does not say."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return int(limit) if limit else None

    def hidden(
        self,
        ids_BL: Tensor,
        mask_BT: Tensor | None = None,
        positions_BL: Tensor | None = None,
        cache: Cache | None = None,
        training: bool = False,
    ) -> Tensor:
        """The head's inputs at every position, [B, L, D].

        Args:
            ids_BL: token ids.
            mask_BT: which of the T cached and new columns are real; None where none is padding,
                or padding is on the right.
            positions_BL: positions in the sequence; None counts from 0.
            cache: keys and values of earlier columns, extended in place.
            training: whether the adapter's dropout is on.
        """
        self._switch(training)
        # A context of its own each time: autocast keeps the adapter's weights in its cache until
        # the outermost context ends, and would miss that the teacher's were swapped in.
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = self.decoder(
                input_ids=ids_BL,
                attention_mask=mask_BT,
                position_ids=positions_BL,
                use_cache=cache is not None,
                **{self._cache_name: cache},
            )
        hidden_BLD: Tensor = output.last_hidden_state
        return hidden_BLD if self.scale == 1.0 else hidden_BLD * self.scale

    @contextlib.contextmanager
    def layers_told(self, told: Callable[[float], None] | None) -> Iterator[None]:
        """Within the block, `told` receives the share of a pass's layers that are done.

        One pass over long prompts takes a CPU minutes. Cutting it into shorter ones would change
        the sums' order, hence the bits; its layers are what can be watched. On a GPU the share is
        that of the layers whose work is queued. A decoder without a list of layers tells nothing.
        """
        layers = [] if told is None else list(getattr(self.decoder, "layers", ()))

        def after(number: int) -> Callable[..., None]:
            # A hook that returned a value would replace the layer's output.
            return lambda *_: None if told is None else told(number / len(layers))

        handles = [
            layer.register_forward_hook(after(number)) for number, layer in enumerate(layers, 1)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits [N, vocabulary] of a few positions, without the head's padded rows."""
        head = self.head
        hidden_ND = hidden_ND.to(head.weight_VD.dtype)
        logits_NV = nn.functional.linear(hidden_ND, head.weight_VD, head.bias_V).float()
        if head.softcap is None:
            return logits_NV
        return torch.tanh(logits_NV / head.softcap) * head.softcap

    def narrow(self, vocabulary: int) -> None:
        """Score only the first `vocabulary` ids from now on."""
        self.vocabulary, own = vocabulary, self.head
        self.head = Head(own.weight_VD, own.bias_V, own.softcap, vocabulary)

    def new_cache(self) -> Cache:
        """An empty cache, of the kinds of layers the model has."""
        return new_cache(self.config)

    def enable_checkpointing(self) -> None:
        """Recompute activations in the backward pass.

        Raises:
            ModelError: the architecture cannot.
        """
        try:
            # The newer of transformers' two names for it, where there is one.
            enable = getattr(self.model, "activation_checkpointing_enable", None)
            (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        except ValueError as error:
            raise ModelError(
                f"{type(self.model).__name__} does not support gradient checkpointing",
                "set train.gradient_checkpointing to false and lower train.micro_batch_tokens",
            ) from error
        self._checkpoints = True

    @torch.no_grad()
    def require_same_logits(self, name: str) -> None:
        """Check that decoder and head apart give the model's own logits, and that all is finite.

        Raises:
            ModelError: they do not, or a weight is NaN or infinite, which only some completions
                would show.
        """
        ids_1L = torch.arange(min(3, self.vocabulary), device=self.device)[None]
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            theirs_LV = self.model(input_ids=ids_1L, use_cache=False).logits[0].float()
        theirs_LV = theirs_LV[:, : self.vocabulary]
        # Both passes come before the first error: where the base is sharded, one process may find
        # a fault in its part alone, and the others would wait for its second pass.
        ours_LV = self.logits(self.hidden(ids_1L)[0])
        # A sum needs no memory, and is finite only if all its terms are.
        sums = [
            local(p).sum(dtype=torch.float32)
            for p in self.model.parameters()
            if p.is_floating_point()
        ]
        if not bool(torch.stack([*sums, theirs_LV.sum()]).isfinite().all()):
            raise ModelError(
                f"the weights of {name} are damaged: they hold or give what is not a number",
                "download the model again, whole",
            )
        # Tolerant of bfloat16: the check is for a missing factor, not for rounding.
        if bool(((ours_LV - theirs_LV).abs() > 0.05 * theirs_LV.abs().max() + 1e-6).any()):
            raise ModelError(
                f"{type(self.model).__name__} changes its logits in a way that is not supported",
                "models whose output head is linear, soft-capped or scaled by a constant work",
            )

    def _switch(self, training: bool) -> None:
        if training == self._training:
            return
        for module in self.model.modules():
            if hasattr(module, "lora_dropout"):
                module.training = training
                module.lora_dropout.train(training)
            elif isinstance(module, GradientCheckpointingLayer) or module is self.decoder:
                module.training = training and self._checkpoints
        self._training = training
