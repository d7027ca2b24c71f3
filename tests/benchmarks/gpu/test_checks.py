"""The checks of the GPU benchmark notice what they are for."""

import pytest
import torch

from orthrus_core.attention.plain import PlainAttention
from tests.benchmarks.gpu import checks
from tests.benchmarks.gpu.checks import (
    attention_spec,
    check_engine,
    check_parity,
    count_differing_groupings,
)
from tests.benchmarks.gpu.shapes import model_shape

CPU = torch.device("cpu")
SHAPE = model_shape("tiny", dtype=torch.float32)
SPEC = attention_spec(SHAPE, dtype=torch.float32, device=CPU)


class Exact(PlainAttention):
    """Plain attention, which gives a row the same bits everywhere."""

    name = "triton"

    def __init__(self):
        super().__init__(SPEC)


class LooksAtNeighbours(Exact):
    """Adds to every row a trace of all rows."""

    def attend(self, q, *args, **kwargs):
        return super().attend(q, *args, **kwargs) + q.sum(0) * 1e-7


def test_bits_that_depend_on_the_company_are_noticed():
    assert count_differing_groupings(LooksAtNeighbours(), SPEC) > 0


def test_bits_that_do_not_are_let_through():
    assert count_differing_groupings(Exact(), SPEC) == 0


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.001, False)])
def test_parity_notices_a_thousandth(monkeypatch, factor, passed):
    class Scaled(Exact):
        def attend(self, q, *args, **kwargs):
            return super().attend(q, *args, **kwargs) * factor

    monkeypatch.setattr(checks, "_backend", lambda spec: (Scaled(), ""))
    rows = list(check_parity(SHAPE, dtypes=[torch.float32], device=CPU))
    assert len(rows) == 4  # two views, with and without a window
    assert all(row["passed"] is passed for row in rows)


def test_an_unusable_backend_is_a_line_with_a_reason(monkeypatch):
    monkeypatch.setattr(checks, "_backend", lambda spec: (None, "not installed"))
    rows = list(check_parity(SHAPE, dtypes=[torch.float32], device=CPU))
    assert [row["why"] for row in rows] == ["not installed"]


def test_texts_of_random_schedules_equal_ar_decoding():
    rows = list(check_engine("tiny", SHAPE, dtypes=[torch.float32], device=CPU))
    assert [row["passed"] for row in rows] == [True] * 3


def test_a_text_that_differs_is_noticed(monkeypatch):
    texts = iter([[[1, 2]], [[1, 2]], [[1, 3]], [[1, 2]]])
    monkeypatch.setattr(checks, "_texts", lambda *args, **options: (next(texts), "exact"))
    rows = list(check_engine("tiny", SHAPE, dtypes=[torch.float32], device=CPU))
    assert [row["differing"] for row in rows] == [0, 1, 0]
    assert [row["passed"] for row in rows] == [True, False, True]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["demo", "1.7b", "8b"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_on_cuda_is_right_and_free_of_company(name, dtype):
    shape, cuda = model_shape(name, dtype=dtype, num_layers=2), torch.device("cuda")
    rows = [
        *check_parity(shape, dtypes=[dtype], device=cuda),
        *checks.check_kernel_bits(shape, dtypes=[dtype], device=cuda),
    ]
    assert [row for row in rows if row.get("passed") is False] == []
    assert sum(row.get("passed") is True for row in rows) >= 5


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["demo", "1.7b", "8b"])
def test_texts_on_cuda_in_bfloat16_equal_ar_decoding(name):
    shape = model_shape(name, dtype=torch.bfloat16, num_layers=2)
    rows = list(check_engine(name, shape, dtypes=[torch.bfloat16], device=torch.device("cuda")))
    assert [row["passed"] for row in rows] == [True] * 3
