"""Which backend is taken, and why the others are not."""

from dataclasses import replace

import pytest
import torch

from orthrus_core.attention import choose
from orthrus_core.attention.choose import choose_backend, triton_backend
from orthrus_core.attention.native import NativeAttention
from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import keeps_bits, trial_error
from orthrus_core.attention.triton_paged import TritonBackend
from orthrus_core.errors import ConfigError

HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "page_size": 16, "max_context": 64}


@pytest.fixture
def spec(kernel_device) -> AttentionSpec:
    return AttentionSpec(**HEADS, dtype=torch.float32, device=kernel_device)


def test_triton_is_taken_where_it_works(spec):
    assert triton_backend(spec).name == "triton"


def test_what_the_library_says_where_it_refuses_is_said(spec, monkeypatch):
    def refuse(*args):
        raise RuntimeError("no such instruction\nsource line")

    monkeypatch.setattr(choose, "trial_error", refuse)
    with pytest.raises(ConfigError, match="triton: no such instruction$"):
        triton_backend(spec)


def test_a_kernel_that_computes_something_else_is_refused(spec, monkeypatch):
    monkeypatch.setattr(choose, "trial_error", lambda backend, spec: 0.5)
    with pytest.raises(ConfigError, match=r"triton: off by 0.5 in the trial call in torch.float32"):
        triton_backend(spec)


def test_a_missing_triton_is_a_reason_with_its_repair(monkeypatch):
    monkeypatch.setattr(choose, "has_triton", lambda: False)
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="triton is not installed, run: pip install triton"):
        triton_backend(spec)


def test_the_trial_call_finds_a_right_backend_right(spec):
    assert trial_error(TritonBackend(spec), spec) < 1e-5


def test_the_trial_call_notices_output_that_is_no_number(spec):
    class Broken(TritonBackend):
        def attend(self, *args, **kwargs):
            return super().attend(*args, **kwargs) * float("nan")

    assert trial_error(Broken(spec), spec) == float("inf")


def test_the_trial_finds_backends_that_keep_the_bits_of_a_row(spec):
    own = replace(spec, device=torch.device("cpu"))
    assert keeps_bits(PlainAttention(own), own)


def test_a_kernel_that_rounds_a_row_by_its_neighbours_is_not_taken(monkeypatch, caplog):
    def attend(self, q, *arguments, **options):
        return honest(self, q, *arguments, **options) * (1 + 1e-7 * (len(q) == 5))

    honest = NativeAttention.attend
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device("cpu"))
    assert choose_backend(spec).name == "native"
    monkeypatch.setattr(NativeAttention, "attend", attend)
    choose._keeps_bits.cache_clear()
    assert choose_backend(spec).name == "plain"
    assert "attention=plain, exact but slower" in caplog.text
    assert "rounds a row by its neighbours" in caplog.text
    with pytest.raises(ConfigError, match="native cannot be had: .* rounds a row by its neighbours"):
        choose_backend(spec, "native")
    choose._keeps_bits.cache_clear()


def test_kernels_that_fail_on_cuda_are_an_error_with_the_reason_and_the_repair(monkeypatch):
    monkeypatch.setattr(choose, "has_triton", lambda: False)
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"triton is not installed.*`attention: plain` runs without them"):
        choose_backend(spec)


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_plain_attention_is_taken_where_it_is_wanted(device, caplog):
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device(device))
    assert choose_backend(spec, "plain").name == "plain"
    assert not caplog.records


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        ("triton", "cpu", "triton does not run on cpu devices; choose auto, native or plain"),
        ("native", "cuda", "native does not run on cuda devices; choose auto, triton or plain"),
    ],
)
def test_another_device_s_kernel_is_refused(wanted, device, message):
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device(device))
    with pytest.raises(ConfigError, match=message):
        choose_backend(spec, wanted)


def test_a_wanted_kernel_that_cannot_be_had_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    spec = AttentionSpec(**HEADS, dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="attention: native cannot be had: no C.. compiler found"):
        choose_backend(spec, "native")
