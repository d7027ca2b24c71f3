"""Which backend is taken, and why the others are not."""

import pytest
import torch

from orthrus_core.attention import cuda
from orthrus_core.attention.cuda import cuda_backend
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import trial_error
from orthrus_core.attention.triton_paged import TritonBackend
from orthrus_core.errors import ConfigError

HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "page_size": 16, "max_context": 64}


@pytest.fixture
def spec(kernel_device) -> AttentionSpec:
    return AttentionSpec(**HEADS, dtype=torch.float32, device=kernel_device)


def refuse(*args, **kwargs):
    raise RuntimeError("Paged KV cache block size must be divisible by 256\nsource line")


def forget_the_scaling(query, key, value, *args, **kwargs):
    return torch.zeros_like(query)


@pytest.mark.parametrize(
    "varlen_attn",
    [
        pytest.param(None, id="not in this torch"),
        pytest.param(refuse, id="refuses the page size"),
        pytest.param(forget_the_scaling, id="computes something else"),
    ],
)
def test_the_next_backend_is_taken_where_varlen_cannot_be(spec, monkeypatch, varlen_attn):
    monkeypatch.setattr(cuda, "find_varlen_attn", lambda: varlen_attn)
    assert cuda_backend(spec).name == "triton"


def test_every_reason_is_named_when_none_is_left(spec, monkeypatch):
    monkeypatch.setattr(cuda, "find_varlen_attn", lambda: refuse)
    with pytest.raises(ConfigError, match="varlen: Paged KV cache block size must be divisible by 256$"):
        cuda_backend(spec, names=["varlen"])


def test_a_missing_triton_is_a_reason_with_its_repair(monkeypatch):
    monkeypatch.setattr(cuda, "has_triton", lambda: False)
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="triton: triton is not installed, run: pip install triton"):
        cuda_backend(spec, names=["triton"])


def test_the_trial_call_finds_a_right_backend_right(spec):
    assert trial_error(TritonBackend(spec), spec) < 1e-5


def test_the_trial_call_notices_output_that_is_no_number(spec):
    class Broken(TritonBackend):
        def attend(self, *args, **kwargs):
            return super().attend(*args, **kwargs) * float("nan")

    assert trial_error(Broken(spec), spec) == float("inf")
