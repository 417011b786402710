"""The Triton kernel against the plain body; run by test_triton_divergence.py, here or on a GPU.

Not collected by itself: whether Triton interprets is decided when it is first imported.
"""

from __future__ import annotations

import pytest
import torch

from backends.pytorch import triton_divergence
from backends.pytorch.head import Head
from backends.pytorch.loss_head import chunked_divergence
from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 600  # not a multiple of the block below


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(triton_divergence, "_BLOCK", 256)


def logits(seed=0, rows=5, scale=3.0):
    torch.manual_seed(seed)
    student = torch.randn(rows, VOCABULARY, device=DEVICE) * scale
    return student, student + torch.randn(rows, VOCABULARY, device=DEVICE)


def check(student, teacher, spec, softcap=None, **tolerance):
    found = compute_divergence(student, teacher, spec, torch)
    gradient = found.gradient_NV
    if softcap is not None:
        gradient = gradient * (1 - (student.float() / softcap) ** 2)
    before = teacher.clone()
    for wanted in (False, True):
        own = student.clone()
        value, clipped, student_entropy, teacher_entropy = triton_divergence.divergence_in_place(
            own, teacher, spec, wanted, softcap
        )
        torch.testing.assert_close(value, found.value_N, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(clipped, found.clipped_N)
        torch.testing.assert_close(student_entropy, found.student_entropy_N, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(teacher_entropy, found.teacher_entropy_N, rtol=1e-4, atol=1e-5)
        expected = gradient.to(student.dtype) if wanted else student
        torch.testing.assert_close(own, expected, **(tolerance or {"rtol": 1e-4, "atol": 1e-6}))
    assert torch.equal(teacher, before)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("clip", ["none", "pointwise", "token"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_value_gradient_and_entropies_equal_the_plain_ones(kind, clip, temperature):
    student, teacher = logits()
    free = compute_divergence(student, teacher, DivergenceSpec(kind, 0.3, temperature), torch)
    middle = 0.004 if clip == "pointwise" else float(free.value_N.median()) * 1.001
    spec = DivergenceSpec(kind, 0.3, temperature, clip, middle)
    if clip != "none":
        share = compute_divergence(student, teacher, spec, torch).clipped_N.mean()
        assert 0 < share < 1 or (clip == "pointwise" and share == 1)
    check(student, teacher, spec)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_jsd_at_an_end_of_beta_is_a_kl(beta):
    check(*logits(), DivergenceSpec("jsd", beta))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_masked_tokens_and_far_apart_logits_are_as_in_the_plain_body(kind):
    student, teacher = logits(scale=30.0)
    student[:, :290] = teacher[:, :290] = -torch.inf  # a whole block among them
    check(student, teacher, DivergenceSpec(kind), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_what_one_role_alone_masks_stays_finite(kind):
    student, teacher = logits()
    teacher[:, :290], student[:, 300:] = -torch.inf, -torch.inf
    value = compute_divergence(student, teacher, DivergenceSpec(kind), torch).value_N
    found = triton_divergence.divergence_in_place(student, teacher, DivergenceSpec(kind), True)[0]
    torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    assert student.isfinite().all()


def test_soft_cap_is_in_the_gradient():
    student, teacher = (torch.tanh(x / 5.0) * 5.0 for x in logits())
    check(student, teacher, DivergenceSpec("jsd"), softcap=5.0)


def test_rows_may_be_part_of_a_wider_buffer_and_of_a_narrower_type():
    student, teacher = logits()
    wide = torch.zeros(5, VOCABULARY + 40, device=DEVICE)
    wide[:, :VOCABULARY] = student
    part = wide[:, :VOCABULARY]
    triton_divergence.divergence_in_place(part, teacher, DivergenceSpec(), True)
    expected = compute_divergence(student, teacher, DivergenceSpec(), torch).gradient_NV
    torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-6)
    assert not wide[:, VOCABULARY:].any()
    check(student.bfloat16(), teacher.bfloat16(), DivergenceSpec("jsd"), rtol=0.02, atol=1e-4)


def test_unsupported_specs_are_refused():
    student, teacher = logits()
    with pytest.raises(ValueError, match="whole rows"):
        triton_divergence.divergence_in_place(student, teacher, DivergenceSpec(top_k=5), True)
    assert triton_divergence.choose(student, teacher, DivergenceSpec(top_k=5)) == "plain"


def test_no_rows_are_no_work():
    empty = torch.zeros(0, VOCABULARY, device=DEVICE)
    found = triton_divergence.divergence_in_place(empty, empty, DivergenceSpec(), True)
    assert [len(x) for x in found] == [0, 0, 0, 0]


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_chunked_loss_is_the_same_with_the_kernel(softcap):
    torch.manual_seed(1)
    student = torch.randn(11, 16, device=DEVICE).requires_grad_()
    teacher, weight = torch.randn(11, 16, device=DEVICE), torch.randn(VOCABULARY, 16, device=DEVICE)
    head = Head(weight, softcap=softcap, vocabulary=VOCABULARY - 9)
    weights, found = torch.rand(11, device=DEVICE), []
    for kernel in ("plain", "triton"):
        ours = chunked_divergence(
            student, teacher, head, weights, DivergenceSpec("jsd"), 4, kernel=kernel
        )  # fmt: skip
        found.append((ours, *torch.autograd.grad(ours.loss, student)))
    (plain, plain_gradient), (fast, fast_gradient) = found
    torch.testing.assert_close(fast.loss, plain.loss)
    torch.testing.assert_close(fast_gradient, plain_gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast.teacher_entropy_N, plain.teacher_entropy_N)
    with torch.no_grad():
        ours = chunked_divergence(
            student, teacher, head, weights, DivergenceSpec("jsd"), 4, kernel="triton"
        )  # fmt: skip
    torch.testing.assert_close(ours.loss, plain.loss.detach())


@pytest.mark.parametrize(
    ("times", "agrees", "chosen"),
    [((1.0, 2.0), True, "triton"), ((2.0, 1.0), True, "plain"), ((1.0, 2.0), False, "plain")],
)
def test_faster_kernel_is_chosen_where_both_agree(monkeypatch, caplog, times, agrees, chosen):
    measured = iter(times)
    monkeypatch.setattr(triton_divergence, "_seconds", lambda work, device: next(measured))
    if not agrees:
        monkeypatch.setattr(
            triton_divergence, "divergence_in_place", lambda own, *rest, **more: own.zero_()
        )
    triton_divergence._chosen.cache_clear()
    student, teacher = logits(seed=4)
    before = student.clone()
    assert triton_divergence.choose(student, teacher, DivergenceSpec("jsd")) == chosen
    assert torch.equal(student, before)
    again, _ = logits(seed=5)
    assert (
        triton_divergence.choose(again, teacher, DivergenceSpec("jsd")) == chosen
    )  # and not measured again
    assert ("disagrees" in caplog.text) == (not agrees)


def test_kernel_that_does_not_compile_is_not_used(monkeypatch, caplog):
    def fails(*args, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(triton_divergence, "divergence_in_place", fails)
    triton_divergence._chosen.cache_clear()
    assert triton_divergence.choose(*logits(seed=6), DivergenceSpec()) == "plain"
    assert "no compiler" in caplog.text
