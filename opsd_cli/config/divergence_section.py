"""Config section for the loss of opsd: which divergence, and how much each token weighs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opsd_cli.config.bounds import (
    LEAST_TEMPERATURE,
    Count,
    Positive,
    Section,
    Share,
)
from opsd_cli.config.choices import DivergenceKind, WeighingName
from opsd_cli.losses.divergence import DivergenceSpec
from opsd_cli.losses.token_weights import WEIGHINGS


class Divergence(Section):
    """The divergence of a run, with a recipe's defaults (temperature 1.1, as published for OPSD).

    A run always uses these values: `spec` hands every one of them to the loss. The defaults of
    `DivergenceSpec` are neutral (temperature 1.0) and apply only to direct callers of the loss.
    """

    kind: DivergenceKind = "forward_kl"
    """Divergence between teacher T and student S: forward_kl is KL(T||S), reverse_kl is KL(S||T),
    jsd the generalised Jensen-Shannon divergence."""
    beta: Share = 0.5
    """Weight of the teacher in JSD's mixture."""
    temperature: float = Field(1.1, ge=LEAST_TEMPERATURE, le=1e3)
    """Temperature by which both models' logits are divided inside the loss."""
    clip: Literal["none", "pointwise", "token"] = "none"
    """Clipping: none, pointwise (each vocabulary term, as the paper does), or token (a token's
    divergence, summed over the vocabulary)."""
    clip_at: Positive = 0.05
    """Upper limit of either clip, in nats; ignored with clip: none or vocabulary: sampled."""
    top_k: Count | None = None
    """Restrict the divergence to the teacher's k most probable tokens; by default it covers the
    full vocabulary."""
    tail: bool = True
    """With top_k: true adds the remaining probability as one more outcome, false renormalises the
    k tokens."""
    vocabulary: Literal["full", "sampled", "no_teacher"] = "full"
    """full: the divergence over the vocabulary. sampled: policy gradient with the sampled token's
    log-ratio of teacher to student as its advantage. no_teacher: a control that asks no teacher;
    the least probable fifth of a step's tokens gets the advantage -1."""
    weigh: WeighingName = "none"
    """How much each token of a completion weighs, mean 1 over its tokens: position (early tokens
    more), late (late tokens more), gap (tokens that the teacher finds likelier than the student),
    entropy (tokens of which the student is unsure), drift (tokens before teacher and student have
    come apart). docs/method.md has the formulas and their sources."""
    weigh_by: float | None = Field(None, ge=0, le=1e3)
    """Strength of `weigh`; 0 weighs all tokens alike. By default position 1, late 0.75, gap 5,
    entropy 1, drift 0.5; at most 1 for position and late."""

    def spec(self) -> DivergenceSpec:
        """These settings as the loss takes them."""
        return DivergenceSpec(**self.model_dump(exclude={"vocabulary", "weigh", "weigh_by"}))


def wrong_strength(divergence: Divergence) -> str | None:
    """Why `weigh_by` does not go with `weigh`: two lines, the second a hint."""
    most = WEIGHINGS[divergence.weigh].most
    if divergence.weigh_by is None or divergence.weigh_by <= most:
        return None
    return (
        f"divergence.weigh_by is {divergence.weigh_by:g}, and {divergence.weigh} takes at most "
        f"{most:g}, so that no weight is negative\nset divergence.weigh_by={most:g} or less"
    )
