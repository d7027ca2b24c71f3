"""What PyTorch's variable-length attention is told; the attention itself runs on CUDA alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import random_trial
from orthrus_core.attention.varlen import NEEDED_OPTIONS, VarlenBackend, find_varlen_attn, window_size
from orthrus_core.decoding.rows import Span

SPEC = AttentionSpec(
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    page_size=4,
    max_context=40,
    dtype=torch.float32,
    device=torch.device("cpu"),
)


def slow_varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa, seqused_k,
    block_table, num_splits,
):  # fmt: skip
    """One query at a time, as the documentation of `varlen_attn` says: queries end where the keys end."""
    assert num_splits == 1
    out = torch.full_like(query, float("nan"))
    for sequence, used in enumerate(seqused_k.tolist()):
        first, end = cu_seq_q[sequence : sequence + 2].tolist()
        k, v = (x[block_table[sequence].long()].flatten(0, 1)[:used] for x in (key, value))
        k, v = (x.repeat_interleave(query.shape[1] // k.shape[1], dim=1) for x in (k, v))
        for row in range(first, end):
            own = used - (end - row)
            low = 0 if window_size[0] < 0 else max(0, own - window_size[0])
            high = used if window_size[1] < 0 else own + window_size[1] + 1
            for head in range(query.shape[1]):
                weights = torch.softmax(k[low:high, head] @ query[row, head] * scale, dim=0)
                out[row, head] = weights @ v[low:high, head]
    return out


def test_spans_and_rows_left_over_become_sequences():
    spans = SpanRows(
        counts=np.array([3, 1]), span_slots=np.array([2, 0]), positions=np.array([7, 8, 9, 30]),
        limits=np.array([7, 8, 9, 30]), page_tables=np.zeros((3, 10), int), page_size=4, causal=True,
    )  # fmt: skip
    plan = VarlenBackend(SPEC, slow_varlen_attn).arrange(spans, 6, torch.device("cpu"))
    assert plan.span_starts.tolist() == [0, 3, 4, 5, 6, 6, 6]  # the last two are empty
    assert plan.num_cells.tolist() == [10, 31, 1, 1, 0, 0]
    assert plan.slots.tolist() == [2, 0, 0, 0, 0, 0]
    assert plan.causal


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 6])
def test_the_documented_call_gives_plain_attention_in_both_views(causal, window):
    spans = [Span(0, 21, [0] * 5), Span(1, 0, [0] * 3), Span(2, 35, [0] * 1)]
    trial = random_trial(SPEC, spans, token_budget=12, causal=causal)
    out = trial.run(VarlenBackend(SPEC, slow_varlen_attn), scaling=0.3, window=window)
    torch.testing.assert_close(out[:9], trial.answer(scaling=0.3, window=window), atol=1e-6, rtol=1e-5)


def test_rows_left_over_get_finite_output():
    trial = random_trial(SPEC, [Span(0, 21, [0] * 5)], token_budget=12)
    out = trial.run(VarlenBackend(SPEC, slow_varlen_attn), scaling=0.3)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("window", "causal", "expected"),
    [(None, True, (-1, 0)), (None, False, (-1, -1)), (5, True, (4, 0)), (5, False, (4, -1))],
)
def test_a_window_counts_the_own_cell_where_pytorch_does_not(window, causal, expected):
    assert window_size(window, causal=causal) == expected


def test_an_older_varlen_attn_without_block_tables_is_not_taken(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, key, value: query)
    assert find_varlen_attn() is None


def test_a_found_varlen_attn_knows_every_option_that_is_used():
    found = find_varlen_attn()
    if found is None:
        pytest.skip("this torch has no varlen_attn with block tables")
    assert {
        "seqused_k", "block_table", "num_splits", "enable_gqa", "scale", "window_size"
    } == NEEDED_OPTIONS  # fmt: skip
    meta = replace(SPEC, dtype=torch.bfloat16, device=torch.device("meta"))
    trial = random_trial(meta, [Span(0, 21, [0] * 5)], token_budget=8)
    assert trial.run(VarlenBackend(meta, found), scaling=0.3).shape == (8, 6, 8)
