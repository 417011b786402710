"""The chunked losses against dense logits left to autograd."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from backends.pytorch import device_memory  # noqa: E402
from backends.pytorch import head as head_module  # noqa: E402
from backends.pytorch.head import Head  # noqa: E402
from backends.pytorch.loss_head import chunked_divergence, chunked_log_probs  # noqa: E402
from backends.shared.chunk_size import chunk_size  # noqa: E402
from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence  # noqa: E402

TOKENS, VOCABULARY, HIDDEN = 13, 60, 16

SPECS = [
    DivergenceSpec(kind, clip=clip, clip_at=0.02, temperature=1.1, **outcomes)
    for kind in ("forward_kl", "reverse_kl", "jsd")
    for clip in ("none", "pointwise", "token")
    for outcomes in ({}, {"top_k": 5}, {"top_k": 5, "tail": False})
]


def spec_id(spec):
    return f"{spec.kind}-{spec.clip}-{spec.top_k}-{spec.tail}"


every_spec = pytest.mark.parametrize("spec", SPECS, ids=spec_id)


def inputs(dtype=torch.float64, tokens=TOKENS, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    student = normal(tokens, HIDDEN)
    teacher = student + 0.4 * normal(tokens, HIDDEN)
    head = normal(VOCABULARY, HIDDEN) / HIDDEN**0.5 * 2
    weights = normal(tokens).abs()
    return (
        student.to(dtype).requires_grad_(),
        teacher.to(dtype),
        head.to(dtype),
        weights.to(dtype),
    )


class DenseDivergence(torch.autograd.Function):
    """`compute_divergence` over a whole [tokens, vocabulary]; itself held to autograd elsewhere."""

    @staticmethod
    def forward(ctx, student_logits, teacher_logits, spec):
        result = compute_divergence(student_logits, teacher_logits, spec, torch)
        ctx.save_for_backward(result.gradient_NV)
        return result.value_N

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream[:, None], None, None


def dense_kl(student, teacher, head):
    """Forward KL in textbook form, sharing no code with what is tested."""
    log_p = torch.log_softmax(student @ head.T, -1)
    log_q = torch.log_softmax(teacher @ head.T, -1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


@every_spec
@pytest.mark.parametrize("chunk_tokens", [1, 5, TOKENS, 100, None])
def test_value_and_hidden_gradient_equal_the_dense_form(spec, chunk_tokens):
    student, teacher, head, weights = inputs()
    ours = chunked_divergence(student, teacher, Head(head), weights, spec, chunk_tokens)
    (gradient,) = torch.autograd.grad(ours.loss, student)

    value = DenseDivergence.apply(student @ head.T, teacher @ head.T, spec)
    (expected,) = torch.autograd.grad((value * weights).sum(), student)
    torch.testing.assert_close(ours.value_N, value.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.loss, (value * weights).sum())
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    dense = compute_divergence(student @ head.T, teacher @ head.T, spec, torch)
    torch.testing.assert_close(ours.clipped_N, dense.clipped_N)
    torch.testing.assert_close(ours.student_entropy_N, dense.student_entropy_N)
    torch.testing.assert_close(ours.teacher_entropy_N, dense.teacher_entropy_N)


@pytest.mark.parametrize("block_bytes", [1, 3 * 4 * VOCABULARY])
def test_blocks_within_a_chunk_leave_the_loss_unchanged(monkeypatch, block_bytes):
    monkeypatch.setattr(head_module, "_BLOCK_BYTES_CPU", block_bytes)
    student, teacher, head, weights = inputs()
    ours = chunked_divergence(
        student, teacher, Head(head), weights, DivergenceSpec(), chunk_tokens=8
    )
    (gradient,) = torch.autograd.grad(ours.loss, student)
    expected = (dense_kl(student, teacher, head) * weights).sum()
    torch.testing.assert_close(ours.loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])
    scored = chunked_log_probs(student, Head(head), torch.arange(TOKENS), chunk_tokens=8)
    (gradient,) = torch.autograd.grad(scored.log_prob_N.sum(), student)
    expected = torch.log_softmax(student @ head.T, -1).diagonal()
    torch.testing.assert_close(scored.log_prob_N, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), student)[0])


def test_gradient_reaches_the_students_hidden_states_alone():
    student, teacher, head, weights = inputs()
    teacher.requires_grad_()
    head.requires_grad_()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    ours = chunked_divergence(student * scale, teacher, Head(head), weights, DivergenceSpec("jsd"))
    (2.0 * ours.loss).backward()
    assert teacher.grad is None and head.grad is None

    def loss_at(factor):
        with torch.no_grad():
            spec = DivergenceSpec("jsd")
            return chunked_divergence(
                student * factor, teacher, Head(head), weights, spec
            ).loss.item()

    numeric = (loss_at(1.5 + 1e-5) - loss_at(1.5 - 1e-5)) / 2e-5
    assert scale.grad.item() == pytest.approx(2.0 * numeric, rel=1e-6)
    assert not ours.value_N.requires_grad and not ours.student_entropy_N.requires_grad


def test_no_jacobian_is_computed_without_a_gradient(monkeypatch):
    def refuse(self, gradient_NV):
        raise AssertionError("multiplied back through the head for nothing")

    monkeypatch.setattr(Head, "back", refuse)
    student, teacher, head, weights = inputs()
    with torch.no_grad():
        scored = chunked_divergence(student, teacher, Head(head), weights, DivergenceSpec())
        chunked_log_probs(student, Head(head), torch.arange(TOKENS))
    frozen = chunked_divergence(student.detach(), teacher, Head(head), weights, DivergenceSpec())
    assert not scored.loss.requires_grad and not frozen.loss.requires_grad
    torch.testing.assert_close(scored.value_N, dense_kl(student, teacher, head).detach())


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("valid_vocab", [None, 50])
def test_bias_soft_cap_and_padding_as_in_a_dense_head(with_bias, softcap, valid_vocab):
    student, teacher, head, weights = inputs()
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) if with_bias else None
    targets = torch.arange(TOKENS) + 30

    def dense_logits(hidden):
        logits = hidden @ head.T
        logits = logits if bias is None else logits + bias
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        if valid_vocab is None:
            return logits
        return logits.masked_fill(torch.arange(VOCABULARY) >= valid_vocab, -math.inf)

    whole = Head(head, bias, softcap, valid_vocab)
    spec = DivergenceSpec("jsd", temperature=1.3)
    ours = chunked_divergence(student, teacher, whole, weights, spec, 4)
    (gradient,) = torch.autograd.grad(ours.loss, student)
    value = DenseDivergence.apply(dense_logits(student), dense_logits(teacher), spec)
    (expected,) = torch.autograd.grad((value * weights).sum(), student)
    torch.testing.assert_close(ours.value_N, value.detach())
    torch.testing.assert_close(gradient, expected)

    scored = chunked_log_probs(student, whole, targets, 1.3, 4)
    (gradient,) = torch.autograd.grad(scored.log_prob_N @ weights, student)
    log_p = torch.log_softmax(dense_logits(student) / 1.3, -1)
    log_prob = log_p.gather(-1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad(log_prob @ weights, student)
    torch.testing.assert_close(scored.log_prob_N, log_prob)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("chunk_tokens", [1, 5, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_equal_the_dense_form(chunk_tokens, temperature):
    student, _, head, advantages = inputs()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(2))
    ours = chunked_log_probs(student, Head(head), targets, temperature, chunk_tokens)
    # A policy ratio: what is upstream differs from token to token and depends on the value.
    (gradient,) = torch.autograd.grad((ours.log_prob_N.exp() * advantages).sum(), student)

    log_p = torch.log_softmax(student @ head.T / temperature, -1)
    log_prob = log_p.gather(-1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((log_prob.exp() * advantages).sum(), student)
    torch.testing.assert_close(ours.log_prob_N, log_prob)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.entropy_N, -(log_p.exp() * log_p).sum(-1).detach())
    assert not ours.entropy_N.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_and_bfloat16_stay_close_to_the_reference(dtype):
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.02}
    )
    spec = DivergenceSpec("jsd", temperature=1.1)
    student, teacher, head, weights = inputs(dtype)
    ours = chunked_divergence(student, teacher, Head(head), weights.float(), spec, 4)
    ours.loss.backward()
    assert ours.loss.dtype == ours.value_N.dtype == torch.float32
    assert student.grad.dtype == dtype

    wide = [x.detach().double() for x in (student, teacher, head, weights)]
    wide[0].requires_grad_()
    oracle = chunked_divergence(wide[0], wide[1], Head(wide[2]), wide[3], spec)
    oracle.loss.backward()
    torch.testing.assert_close(ours.value_N.double(), oracle.value_N, **tolerance)
    torch.testing.assert_close(student.grad.double(), wide[0].grad, **tolerance)


def test_hidden_states_wider_than_the_head_keep_their_dtype():
    student, teacher, head, weights = inputs(torch.float32)
    ours = chunked_divergence(student, teacher, Head(head.bfloat16()), weights, DivergenceSpec())
    ours.loss.backward()
    assert student.grad.dtype == torch.float32 and student.grad.abs().max() > 0


def test_the_default_chunk_holds_at_most_its_budget_of_logits(monkeypatch):
    monkeypatch.setattr(head_module, "_CHUNK_BYTES_CPU", 4 * VOCABULARY * 6)
    seen = []
    original = Head.logits

    def watch(self, hidden_ND, buffer):
        seen.append(len(hidden_ND))
        return original(self, hidden_ND, buffer)

    monkeypatch.setattr(Head, "logits", watch)
    student, teacher, head, weights = inputs()
    chunked_divergence(student, teacher, Head(head), weights, DivergenceSpec())
    assert seen == [6, 6, 6, 6, 1, 1]


def test_no_tokens_is_a_loss_of_zero():
    student, teacher, head, weights = inputs(tokens=0)
    ours = chunked_divergence(student, teacher, Head(head), weights, DivergenceSpec())
    ours.loss.backward()
    assert ours.loss.item() == 0.0 and student.grad.shape == (0, HIDDEN)
    empty = chunked_log_probs(student, Head(head), torch.zeros(0, dtype=torch.long))
    assert empty.log_prob_N.shape == empty.entropy_N.shape == (0,)


def test_mismatched_shapes_and_chunk_sizes_are_refused():
    student, teacher, head, weights = inputs()
    spec = DivergenceSpec()
    with pytest.raises(ValueError, match="share one shape"):
        chunked_divergence(student, teacher[1:], Head(head), weights, spec)
    with pytest.raises(ValueError, match="12 weights for 13"):
        chunked_divergence(student, teacher, Head(head), weights[1:], spec)
    with pytest.raises(ValueError, match="targets"):
        chunked_log_probs(student, Head(head), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="chunk_tokens"):
        chunked_divergence(student, teacher, Head(head), weights, spec, chunk_tokens=0)
    with pytest.raises(ValueError, match="chunk_tokens"):
        chunked_log_probs(student, Head(head), torch.arange(TOKENS), chunk_tokens=-4)


def test_chunk_size_is_usual_unless_memory_is_short():
    def size(free, requested=None, tokens=1000):
        return chunk_size(requested, tokens, 400, 40_000, free)

    assert size(10**9) == size(16 * 40_000) == 100
    assert size(16 * 20_000) == 50
    assert size(0) == size(-5) == 1
    assert size(10**9, tokens=7) == 7
    assert size(0, requested=30) == 30
    with pytest.raises(ValueError, match="at least 1"):
        size(10**9, requested=0)


def test_little_free_memory_gives_smaller_chunks_and_the_same_loss(monkeypatch):
    student, teacher, head, weights = inputs()
    seen = []
    plain = Head.logits

    def logits(self, hidden, buffer):
        seen.append(len(hidden))
        return plain(self, hidden, buffer)

    monkeypatch.setattr(Head, "logits", logits)
    usual = chunked_divergence(student, teacher, Head(head), weights, DivergenceSpec("jsd"))
    assert seen == [TOKENS, TOKENS]
    seen.clear()
    monkeypatch.setattr(device_memory, "free", lambda device: 16 * 3 * 4 * VOCABULARY)
    short = chunked_divergence(student, teacher, Head(head), weights, DivergenceSpec("jsd"))
    assert max(seen) == 3 and sum(seen) == 2 * TOKENS
    torch.testing.assert_close(short.loss, usual.loss)


def test_bfloat16_models_are_reduced_in_float32():
    student, teacher, head, weights = (x.detach().bfloat16() for x in inputs())
    student.requires_grad_()
    spec = DivergenceSpec("reverse_kl")
    ours = chunked_divergence(student, teacher, Head(head), weights.float(), spec, chunk_tokens=4)
    (gradient,) = torch.autograd.grad(ours.loss, student)
    assert ours.value_N.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    # What is right of those logits, which bfloat16 has rounded: the rest is float64.
    logits = [(x.detach() @ head.T).double() for x in (student, teacher)]
    dense = compute_divergence(*logits, spec, torch)
    torch.testing.assert_close(ours.value_N.double(), dense.value_N, rtol=1e-5, atol=1e-6)
    expected = (dense.gradient_NV * weights[:, None].double()) @ head.double()
    torch.testing.assert_close(gradient.double(), expected, rtol=0.05, atol=0.02)
