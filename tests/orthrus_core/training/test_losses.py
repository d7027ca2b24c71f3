import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from orthrus_core.training.losses import (
    BYTES_PER_LOGIT,
    chunk_rows,
    distillation_loss,
    next_token_loss,
    next_token_weights,
)
from orthrus_core.training.packing import Document, collate
from tests.live_bytes import LiveBytes

R, D, V = 7, 5, 11


def tensors():
    generator = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = (torch.randn(R, D, generator=generator, dtype=torch.float64) for _ in range(2))
    output_weight = torch.randn(V, D, generator=generator, dtype=torch.float64)
    weights = torch.rand(R, generator=generator, dtype=torch.float64)
    target_ids = torch.randint(V, (R,), generator=generator)
    return hidden.requires_grad_(), output_weight, teacher_hidden, target_ids, weights


def plain_kl(hidden, output_weight, teacher_hidden, weights):
    """Forward KL with all logits at once, term by term."""
    total = torch.zeros((), dtype=hidden.dtype)
    for h, t, w in zip(hidden, teacher_hidden, weights, strict=True):
        p, q = (output_weight @ t).softmax(-1), (output_weight @ h).softmax(-1)
        total = total + w * sum(p[v] * (p[v].log() - q[v].log()) for v in range(V))
    return total


def test_completions_weigh_one_prompts_a_little_and_borders_nothing():
    batch = collate([[Document([1, 2], [3, 4]), Document([5, 6], [7])]], sequence_len=8)
    weights = next_token_weights(batch, prompt_weight=0.5)
    assert weights.tolist() == [[0.5, 1, 1, 0, 0.5, 1, 0, 0]]


def test_next_token_loss_is_a_weighted_sum():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    loss = next_token_loss(logits, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    assert loss.total.item() == pytest.approx(math.log(2) + 2 * math.log(4 / 3))
    assert loss.weight.item() == 3.0


@pytest.mark.parametrize("rows_per_chunk", [1, 3, R, 100])
def test_chunked_kl_and_its_gradient_equal_the_plain_formula(rows_per_chunk):
    hidden, output_weight, teacher_hidden, _, weights = tensors()
    loss = distillation_loss(
        hidden, output_weight, weights=weights, teacher_hidden=teacher_hidden, rows_per_chunk=rows_per_chunk
    )
    expected = plain_kl(hidden, output_weight, teacher_hidden, weights)
    (gradient,) = torch.autograd.grad(loss.total * 3, hidden)
    (expected_gradient,) = torch.autograd.grad(expected * 3, hidden)
    torch.testing.assert_close(loss.total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def test_chunked_cross_entropy_and_its_gradient_equal_the_plain_formula():
    hidden, output_weight, _, target_ids, weights = tensors()
    loss = distillation_loss(hidden, output_weight, weights=weights, target_ids=target_ids, rows_per_chunk=2)
    losses = cross_entropy(hidden @ output_weight.T, target_ids, reduction="none")
    expected = (losses * weights).sum()
    (gradient,) = torch.autograd.grad(loss.total, hidden)
    (expected_gradient,) = torch.autograd.grad(expected, hidden)
    torch.testing.assert_close(loss.total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("targets", ["teacher", "text"])
def test_the_loss_of_capped_logits_and_its_gradient_equal_the_plain_formula(targets):
    hidden, output_weight, teacher_hidden, target_ids, weights = tensors()
    teacher = {"teacher_hidden": teacher_hidden} if targets == "teacher" else {"target_ids": target_ids}
    loss = distillation_loss(hidden, output_weight, weights=weights, rows_per_chunk=3, softcap=0.7, **teacher)
    (gradient,) = torch.autograd.grad(loss.total, hidden)
    own, teachers = (torch.tanh(h @ output_weight.T / 0.7) * 0.7 for h in (hidden, teacher_hidden))
    if targets == "teacher":
        p = teachers.softmax(-1)
        losses = (p * (p.log() - own.log_softmax(-1))).sum(-1)
    else:
        losses = cross_entropy(own, target_ids, reduction="none")
    (expected,) = torch.autograd.grad((losses * weights).sum(), hidden)
    assert loss.total.item() == pytest.approx((losses * weights).sum().item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_in_fp32_the_gradient_is_that_of_plain_autograd_within_rounding():
    exact, output_weight, teacher_hidden, _, weights = tensors()
    (expected,) = torch.autograd.grad(plain_kl(exact, output_weight, teacher_hidden, weights), exact)
    hidden = exact.detach().float().requires_grad_()
    loss = distillation_loss(
        hidden,
        output_weight.float(),
        weights=weights.float(),
        teacher_hidden=teacher_hidden.float(),
        rows_per_chunk=3,
    )
    loss.total.backward()
    torch.testing.assert_close(hidden.grad.double(), expected, rtol=1e-5, atol=1e-6)


LARGE = {"R": 64, "D": 4, "V": 3000}


def live_bytes(*, rows_per_chunk: int, targets: str = "teacher", **options: float) -> LiveBytes:
    """What a loss and its backward hold, 64 rows under 3,000 logits each."""
    generator = torch.Generator().manual_seed(0)
    hidden, teacher = torch.randn(2, LARGE["R"], LARGE["D"], generator=generator)
    output_weight = torch.randn(LARGE["V"], LARGE["D"], generator=generator)
    kinds = {"teacher_hidden": teacher} if targets == "teacher" else {"target_ids": torch.arange(LARGE["R"])}
    hidden.requires_grad_()
    with LiveBytes() as live:
        distillation_loss(
            hidden,
            output_weight,
            weights=torch.ones(LARGE["R"]),
            rows_per_chunk=rows_per_chunk,
            **kinds,
            **options,
        ).total.backward()
    return live


@pytest.mark.parametrize("targets", ["teacher", "text"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("rows_per_chunk", [4, 16, 48])
def test_the_loss_never_holds_more_than_its_bound(targets, softcap, rows_per_chunk):
    live = live_bytes(rows_per_chunk=rows_per_chunk, targets=targets, softcap=softcap)
    logits, gradient = rows_per_chunk * LARGE["V"], LARGE["R"] * LARGE["D"]
    assert live.largest <= 4 * logits
    # Two gradients (one is scaled in the backward), and vectors of a few numbers per row.
    assert live.peak <= BYTES_PER_LOGIT * logits + 2 * 4 * gradient + 64 * LARGE["R"]


def test_in_bf16_the_output_head_is_cast_once_for_all_chunks():
    with torch.autocast("cpu", torch.bfloat16):
        live = live_bytes(rows_per_chunk=16)
    cast, logits = 2 * LARGE["V"] * LARGE["D"], 16 * LARGE["V"]
    assert live.peak <= BYTES_PER_LOGIT * logits + cast + 16 * LARGE["R"] * LARGE["D"] + 64 * LARGE["R"]


def test_memory_for_logits_is_turned_into_rows():
    assert chunk_rows(151_936, 512 * 2**20) == 220
    assert chunk_rows(1024, 2**20) == 64
    assert chunk_rows(151_936, 1) == 1


def test_a_view_that_says_what_its_teacher_says_has_no_loss():
    hidden, output_weight, _, _, weights = tensors()
    loss = distillation_loss(hidden, output_weight, weights=weights, teacher_hidden=hidden.detach())
    assert loss.total.item() == pytest.approx(0.0, abs=1e-6)


def test_no_rows_give_no_loss_and_an_empty_gradient():
    _, output_weight, _, _, _ = tensors()
    hidden = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(hidden, output_weight, weights=torch.zeros(0), teacher_hidden=hidden.detach())
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert hidden.grad.shape == (0, D)
