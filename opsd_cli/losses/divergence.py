"""Per-token divergences between teacher and student, with analytic gradients.

The gradients are with respect to the student's logits. One body gives value and gradient for every
kind; NumPy, torch and MLX all run it, and NumPy in float64 is the reference for the other two.
Notation: z are the student's logits, p its probabilities, q the teacher's, T the temperature that
divides both roles' logits; v runs over the vocabulary.

Each divergence is a sum of terms l_v. With g_v = dl_v / dlog p_v the chain through the softmax is
the same for all of them, so a kind is its terms and its g, one entry of `KINDS`:

    forward KL   l = q log(q/p)                               g = -q
    reverse KL   l = p log(p/q)                               g = l + p
    JSD_beta     l = beta q log(q/m) + (1-beta) p log(p/m)    g = (1-beta) p log(p/m)
                 m = beta q + (1-beta) p

    dL/dz = (g - p sum(g)) / T

The sum of a gradient row is zero, because adding a constant to all logits does not change the
softmax. JSD_beta is the generalised divergence of GKD (Agarwal et al., arXiv 2306.13649), which is
0 at both ends of beta; as in GKD's implementations, forward KL is computed at beta = 0 and reverse
KL at beta = 1.

Clipping. *Pointwise* is the recipe of OPSD (Zhao et al., arXiv 2601.18734): min(l_v, clip_at) for
each term. A term at its cap becomes a constant, so its g is zero, but its p stays in the softmax's
normaliser: a token that the teacher favours strongly is then pushed *down*, and since only large
positive terms are capped, the loss can be negative. It is here because it is the published recipe;
`clipped_N` is how often it acts. *Token* caps the sum instead: a clipped token has no gradient.

Top-k. The kept tokens are the teacher's k most likely. With a tail, all others together are one
more outcome for both roles, an exact divergence over k+1 outcomes (SDPO, Hübotter et al.,
arXiv 2601.20802, has this bucket, over the student's top-k). Without, both distributions are
renormalised over the kept tokens, as OPSD's and SDPO's code do; the mass the student puts
elsewhere then costs nothing. Both are the full divergence of shorter logit rows, so both go
through the same body.

Numbers. log m is the logarithm of the mixed probabilities rather than a logaddexp, which would cost
two more transcendentals an entry: it can underflow only where p and q both have, and there every
term is zero. `softmax.LOG_FLOOR` gives a finite value where one role masks a token: 0 if the masked
role is averaged over, else a large but finite one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Literal, get_args

from opsd_cli.errors import ConfigError
from opsd_cli.losses.array_ops import Array, ArrayOps, array_ops
from opsd_cli.losses.softmax import SMALLEST, log_softmax, tail

Clip = Literal["none", "pointwise", "token"]


@dataclass
class Pair:
    """Both roles' distributions over the outcomes compared, [N, V] each.

    A kind's terms may overwrite `log_p`, `log_q` and `q`, or delete them to free memory early; `p`
    is needed after them and must stay.
    """

    log_p: Array
    p: Array
    log_q: Array
    q: Array


@dataclass(frozen=True)
class KindEntry:
    """A kind of divergence.

    Attributes:
        summary: the formula in a few words, T the teacher and S the student.
        terms: given both distributions, beta and the array operations, the terms l and their
            derivatives g = dl / dlog p, [N, V] each.
        equal_to_at_beta: values of beta, and the kind that is computed there instead of this one.
    """

    summary: str
    terms: Callable[[Pair, float, ArrayOps], tuple[Array, Array]]
    equal_to_at_beta: Mapping[float, str] = field(default_factory=dict)


def _forward_kl(pair: Pair, beta: float, ops: ArrayOps) -> tuple[Array, Array]:
    terms, g = pair.log_q, pair.q
    terms -= pair.log_p
    terms *= g
    g *= -1.0
    return terms, g


def _reverse_kl(pair: Pair, beta: float, ops: ArrayOps) -> tuple[Array, Array]:
    terms = pair.log_p
    terms -= pair.log_q
    terms *= pair.p
    return terms, pair.p + terms


def _jsd(pair: Pair, beta: float, ops: ArrayOps) -> tuple[Array, Array]:
    log_m = pair.q - pair.p
    log_m *= beta
    log_m += pair.p
    log_m = ops.log_(ops.at_least_(log_m, SMALLEST))
    pair.log_p -= log_m
    pair.log_q -= log_m
    ops.materialize(pair.log_p, pair.log_q)
    del log_m
    g, terms = pair.log_p, pair.log_q
    g *= pair.p
    g *= 1.0 - beta
    terms *= pair.q
    terms *= beta
    terms += g
    return terms, g


KINDS: dict[str, KindEntry] = {
    "forward_kl": KindEntry("KL(T||S)", _forward_kl),
    "reverse_kl": KindEntry("KL(S||T)", _reverse_kl),
    "jsd": KindEntry(
        "generalised Jensen-Shannon divergence, beta the teacher's share of the mixture",
        _jsd,
        {0.0: "forward_kl", 1.0: "reverse_kl"},
    ),
}
"""The kinds by name. A new kind is one entry: config, checks and both backends read this table
(the Triton kernel leaves kinds that it does not know to the shared body)."""


@dataclass(frozen=True)
class DivergenceSpec:
    """Which divergence, over which outcomes, clipped how.

    The defaults here are neutral: the plain divergence at temperature 1, for callers of the loss
    functions. A run takes every value from the config section `divergence`
    (`opsd_cli.config.divergence_section.Divergence`), whose defaults are a recipe's.

    Attributes:
        kind: a name of `KINDS`.
        beta: the teacher's share of JSD's mixture, 0 to 1; 0 computes forward KL, 1 reverse KL.
        temperature: divides both roles' logits; greater than 0.
        clip: `none`, each vocabulary term (`pointwise`), or each token's sum (`token`).
        clip_at: the cap in nats, greater than 0; read only when `clip` is not `none`.
        top_k: keep the teacher's k most likely tokens; None keeps the vocabulary.
        tail: with `top_k`, count all other tokens as one more outcome instead of leaving them out.

    Raises:
        ConfigError: a value outside these bounds.
    """

    kind: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    clip: Clip = "none"
    clip_at: float = 0.05
    top_k: int | None = None
    tail: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"divergence.kind: {self.kind!r} is not a divergence",
                f"choose one of {', '.join(KINDS)}",
            )
        if self.clip not in get_args(Clip):
            raise ConfigError(
                f"divergence.clip: {self.clip!r} is not a way to clip",
                f"choose one of {', '.join(get_args(Clip))}",
            )
        if not 0.0 <= self.beta <= 1.0:
            raise ConfigError(
                f"divergence.beta: {self.beta} is not between 0 and 1",
                "0.5 is the symmetric divergence; 0 names forward KL and 1 reverse KL",
            )
        if not (self.temperature > 0.0 and math.isfinite(self.temperature)):
            raise ConfigError(
                f"divergence.temperature: {self.temperature} is not a positive number",
                "1.0 compares the distributions as they are",
            )
        if not (self.clip_at > 0.0 and math.isfinite(self.clip_at)):
            raise ConfigError(
                f"divergence.clip_at: {self.clip_at} is not a positive number",
                "set divergence.clip to none to leave the divergence unclipped",
            )
        self._check_top_k()

    def _check_top_k(self) -> None:
        if self.top_k is None:
            return
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise ConfigError(
                f"divergence.top_k: {self.top_k!r} is not a positive whole number",
                "leave it null to compare the whole vocabulary",
            )
        if self.top_k == 1 and not self.tail:
            raise ConfigError(
                "divergence.top_k: one token without a tail has probability 1 for both roles",
                "set divergence.tail to true, or divergence.top_k to 2 or more",
            )

    @property
    def effective_kind(self) -> str:
        """The kind that is computed: forward KL for `jsd` at beta 0, reverse KL at beta 1."""
        return KINDS[self.kind].equal_to_at_beta.get(self.beta, self.kind)


@dataclass(frozen=True)
class DivergenceResult:
    """The divergences of N tokens, their gradients, and the numbers that monitoring reads.

    Attributes:
        value_N: nats; after clipping.
        gradient_NV: d value / d student's logits, the factor 1 / temperature included.
        clipped_N: 1.0 where the token's sum (clip `token`) or at least one of its terms
            (`pointwise`) was at its cap, else 0.0.
        student_entropy_N: nats, of the distribution compared: at `temperature`, and over the
            outcomes that `top_k` and `tail` leave.
        teacher_entropy_N: the same for the teacher.
    """

    value_N: Array
    gradient_NV: Array
    clipped_N: Array
    student_entropy_N: Array
    teacher_entropy_N: Array


def value_and_gradient(
    student_logits_NV: Array, teacher_logits_NV: Array, spec: DivergenceSpec, xp: ModuleType
) -> tuple[Array, Array]:
    """Divergence of each token and its gradient with respect to the student's logits.

    The first two fields of what `compute_divergence` returns; same arguments and errors.
    """
    result = compute_divergence(student_logits_NV, teacher_logits_NV, spec, xp)
    return result.value_N, result.gradient_NV


def compute_divergence(
    student_logits_NV: Array, teacher_logits_NV: Array, spec: DivergenceSpec, xp: ModuleType
) -> DivergenceResult:
    """Divergence, gradient, clipping and entropies of N tokens in one pass.

    No gradient flows to the teacher, and none is recorded by autograd: what is returned is the
    whole gradient. The inputs are left as they are. Beside them, at most five arrays of their
    size are alive at once.

    Args:
        student_logits_NV: before temperature; any float type, a masked token is -inf. A row that
            masks every token (every kept one, without a tail) has no distribution and gives NaN,
            as does a NaN logit.
        teacher_logits_NV: same shape.
        spec: what to compute.
        xp: the namespace of the arrays: numpy, torch or mlx.core.

    Returns:
        Arrays of `xp`, float64 if the logits are and float32 otherwise.

    Raises:
        ValueError: the shapes differ or are not [tokens, vocabulary].
        TypeError: `xp` is not one of the three.
    """
    student_shape, teacher_shape = tuple(student_logits_NV.shape), tuple(teacher_logits_NV.shape)
    if student_shape != teacher_shape or len(student_shape) != 2:
        raise ValueError(
            f"student and teacher logits must share one shape [tokens, vocabulary], "
            f"not {list(student_shape)} and {list(teacher_shape)}"
        )
    ops = array_ops(xp)
    if spec.top_k is None or spec.top_k >= student_shape[-1]:
        return _compare(student_logits_NV, teacher_logits_NV, spec, ops)
    return _compare_top_k(student_logits_NV, teacher_logits_NV, spec, spec.top_k, ops)


def _compare(
    student_NV: Array, teacher_NV: Array, spec: DivergenceSpec, ops: ArrayOps
) -> DivergenceResult:
    """The body of every kind: each outcome is a column."""
    log_p, p = log_softmax(student_NV, spec.temperature, ops)
    log_q, q = log_softmax(teacher_NV, spec.temperature, ops)
    student_entropy_N1, teacher_entropy_N1 = -ops.row_dot(p, log_p), -ops.row_dot(q, log_q)
    ops.materialize(student_entropy_N1, teacher_entropy_N1)

    pair = Pair(log_p, p, log_q, q)
    del log_p, log_q, q  # so that the terms can free or reuse them
    terms, g = KINDS[spec.effective_kind].terms(pair, spec.beta, ops)
    del pair
    ops.materialize(terms, g)
    kept_N1 = None
    if spec.clip == "pointwise":
        kept_N1 = ops.not_above(ops.row_max(terms), spec.clip_at)
        g *= ops.not_above(terms, spec.clip_at)
        terms = ops.at_most_(terms, spec.clip_at)
    value_N1 = ops.row_sum(terms)
    ops.materialize(value_N1)
    del terms

    gradient = p
    gradient *= -ops.row_sum(g)
    gradient += g
    if spec.clip == "token":
        kept_N1 = ops.not_above(value_N1, spec.clip_at)
        value_N1 = ops.at_most_(value_N1, spec.clip_at)
        gradient *= kept_N1 / spec.temperature
    elif spec.temperature != 1.0:
        gradient *= 1.0 / spec.temperature

    return DivergenceResult(
        value_N=value_N1[:, 0],
        gradient_NV=gradient,
        clipped_N=(ops.zeros_like(value_N1) if kept_N1 is None else 1.0 - kept_N1)[:, 0],
        student_entropy_N=student_entropy_N1[:, 0],
        teacher_entropy_N=teacher_entropy_N1[:, 0],
    )


def _compare_top_k(
    student_NV: Array, teacher_NV: Array, spec: DivergenceSpec, k: int, ops: ArrayOps
) -> DivergenceResult:
    """Shorten the rows to the kept tokens (and the tail), compare those, spread the gradient."""
    kept_NK = ops.top_k(teacher_NV, k)
    student_K = ops.floating(ops.take(student_NV, kept_NK)) / spec.temperature
    teacher_K = ops.floating(ops.take(teacher_NV, kept_NK)) / spec.temperature
    # The rows below are already divided by the temperature, so the body must not do it again.
    unit_spec = replace(spec, temperature=1.0)
    if not spec.tail:
        short = _compare(student_K, teacher_K, unit_spec, ops)
        gradient_K = short.gradient_NV / spec.temperature
        gradient_NV = ops.zeros_like(ops.floating(student_NV))
        return replace(short, gradient_NV=ops.put_(gradient_NV, kept_NK, gradient_K))

    teacher_tail_N1 = tail(teacher_NV, kept_NK, spec.temperature, ops)[0]
    student_tail_N1, weight_NV, total_N1 = tail(student_NV, kept_NK, spec.temperature, ops)
    short = _compare(
        ops.concatenate(student_K, student_tail_N1),
        ops.concatenate(teacher_K, teacher_tail_N1),
        unit_spec,
        ops,
    )
    gradient_K1 = short.gradient_NV / spec.temperature
    # The tail's logit is the logsumexp of its tokens' logits, whose derivative is their softmax.
    weight_NV *= gradient_K1[:, k:] / total_N1
    return replace(short, gradient_NV=ops.put_(weight_NV, kept_NK, gradient_K1[:, :k]))
