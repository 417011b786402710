"""What a backend's policy implements below `PolicyBase`: passes over one micro-batch, mostly."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, Literal

import numpy as np

from backends.interface import PolicyGradientBatch, Sampling, TokenReport
from backends.shared.decoding import DecodingBatch
from backends.shared.micro_batches import PromptAndCompletion
from backends.shared.teacher_cache import Hidden
from opsd_cli.losses.divergence import DivergenceSpec


class PassesOfABackend(ABC, Generic[Hidden]):
    """The methods that a backend adds; the last two have defaults."""

    @abstractmethod
    def _attach(self, folder: Path) -> None:
        """Put the folder's adapter into the model."""

    @abstractmethod
    def _new_batch(self, sampling: Sampling) -> DecodingBatch:
        """An empty batch to decode with."""

    @abstractmethod
    def _score_pairs(self, pairs: Sequence[PromptAndCompletion], sampling: Sampling) -> np.ndarray:
        """Log-probabilities of the completions' tokens, one after another, float32 [N]."""

    @abstractmethod
    def _teacher_hidden(self, pairs: Sequence[PromptAndCompletion]) -> Hidden:
        """Hidden states [N, D] that predict the completions' tokens, computed, without gradient."""

    @abstractmethod
    def _divergence_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        teacher_ND: Hidden,
        teacher_head: Any,
        weights_N: np.ndarray,
        spec: DivergenceSpec,
        training: bool,
    ) -> TokenReport:
        """Divergences of a micro-batch's N tokens; with `training`, add the gradient of their sum
        weighted by `weights_N`, float32. `teacher_head` is the head of the model that the teacher's
        hidden states are of: the student's own, or another's over the same ids."""

    @abstractmethod
    def _policy_gradient_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        batch: PolicyGradientBatch,
        weights_N: np.ndarray,
        training: bool,
    ) -> TokenReport:
        """The same for the surrogate; `batch` holds only the micro-batch's items."""

    def _loss_kernels(self) -> frozenset[str]:
        """Values of `train.loss_kernel` that can run on the device; asked before a model is set up.

        Every backend has `auto` and `plain`; one with kernels for a GPU adds their names.
        """
        return frozenset({"auto", "plain"})

    def _reporting_out_of_memory(
        self, phase: Literal["generate", "learn"]
    ) -> AbstractContextManager[None]:
        """Turns the backend's out-of-memory errors in a phase into a `TrainingError`."""
        return contextlib.nullcontext()
