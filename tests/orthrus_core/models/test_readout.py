"""What a row says does not depend on the rows beside it, however many threads there are."""

import pytest
import torch

from orthrus_core.models import native_readout
from orthrus_core.models.readout import Readout, plain_read_out, read_out
from orthrus_core.native import FLAGS
from tests.orthrus_core.linear.test_native import WITHOUT_AVX512

SIZES = (1, 2, 7, 8, 15, 16, 17, 255, 256, 257, 1000, 5003)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["kernel", "kernel without wide vectors", "plain"])
def form(request, monkeypatch):
    native_readout._build.cache_clear()
    if request.param == "plain":
        monkeypatch.setattr("orthrus_core.models.readout.readout_kernel", lambda: None)
    elif request.param != "kernel":
        monkeypatch.setattr("orthrus_core.native.FLAGS", (*FLAGS, *WITHOUT_AVX512))
    yield
    native_readout._build.cache_clear()


def some_logits(size: int, *, rows: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    scales = torch.tensor([0.1, 3.0, 30.0]).repeat(rows // 3)
    return torch.randn(rows, size, generator=generator) * scales[:, None]


def assert_near(said: Readout, expected: Readout) -> None:
    assert torch.equal(said.ids, expected.ids)
    assert torch.equal(said.gaps, expected.gaps)
    torch.testing.assert_close(said.logsumexp, expected.logsumexp)
    torch.testing.assert_close(said.logprobs, expected.logprobs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lone_row_of_a_large_vocabulary_has_the_bits_that_it_has_among_others(form, two_threads, dtype):
    logits = some_logits(100_003).to(dtype)
    together = read_out(logits)
    alone = [read_out(row) for row in logits.split(1)]
    assert torch.equal(torch.cat([one.logsumexp for one in alone]), together.logsumexp)
    assert torch.equal(torch.cat([one.logprobs for one in alone]), together.logprobs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_says_what_the_plain_form_says(form, size, dtype):
    logits = some_logits(size).to(dtype)
    assert_near(read_out(logits), plain_read_out(logits))
    tied = logits.round()
    assert_near(read_out(tied), plain_read_out(tied))
    excluded = tied.masked_fill(torch.rand(tied.shape) < 0.3, float("-inf"))
    excluded[:, -1] = 1.0
    assert_near(read_out(excluded), plain_read_out(excluded))


def test_rows_may_have_any_strides(form):
    logits = some_logits(40, rows=30)
    for view in (logits.T, logits[::2], logits[:, 3:30], logits[1:2].expand(4, -1)):
        assert_near(read_out(view), plain_read_out(view.contiguous()))


def test_the_log_probability_of_the_likeliest_token_has_one_value(form):
    said = read_out(some_logits(5003).bfloat16())
    assert torch.equal(said.logprobs_of(said.ids), said.logprobs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 17, 99])
def test_a_broken_row_has_no_finite_logprob_and_harms_no_other(form, value, place):
    logits = some_logits(100)
    whole = read_out(logits.clone())
    logits[4, place] = value
    said = read_out(logits)
    assert not said.logprobs[4].isfinite()
    others = torch.arange(9) != 4
    assert torch.equal(said.logprobs[others], whole.logprobs[others])
    assert not read_out(torch.full((1, 100), float("-inf"))).logprobs.isfinite().any()


def test_under_torch_compile_it_is_one_operator():
    logits = some_logits(257)
    if native_readout.readout_kernel() is None:
        pytest.skip("no compiler")
    compiled = torch.compile(lambda x: read_out(x)[1:], fullgraph=True)
    for mine, eager in zip(compiled(logits), read_out(logits)[1:], strict=True):
        assert torch.equal(mine, eager)
