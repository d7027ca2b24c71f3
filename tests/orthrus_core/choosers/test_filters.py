"""Filters: the numbers of transformers' warpers, each row with its own parameters."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from orthrus_core import SamplingParams
from orthrus_core.choosers.filters import filter_logits
from tests.filters import filters_of

V = 97
CASES = [
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=1.3, top_k=1),
    SamplingParams(temperature=1.0, top_k=7),
    SamplingParams(temperature=1.0, top_k=5000),
    SamplingParams(temperature=0.3, top_p=0.9),
    SamplingParams(temperature=1.0, top_p=1e-6),
    SamplingParams(temperature=2.0, min_p=0.1),
    SamplingParams(temperature=1.0, min_p=1.0),
    SamplingParams(temperature=0.6, top_k=20, top_p=0.95),
    SamplingParams(temperature=1.7, top_k=30, top_p=0.8, min_p=0.05),
]


def some_logits(rows: int, *, ties: bool = False):
    logits = torch.randn(rows, V, generator=torch.Generator().manual_seed(1)) * 3
    return logits.round() if ties else logits


def of_transformers(logits, params):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    return warpers(torch.zeros(len(logits), 1, dtype=torch.int64), logits)


def assert_same(scores, expected, *, ties: bool):
    """Equal, but for which of several equal scores stay at the cut of top-p: theirs is an unstable sort."""
    if ties:
        scores, expected = scores.sort().values, expected.sort().values
    assert torch.equal(scores, expected)


@pytest.mark.parametrize("params", CASES, ids=lambda p: f"{p.temperature}-{p.top_k}-{p.top_p}-{p.min_p}")
@pytest.mark.parametrize("ties", [False, True])
def test_a_filter_gives_the_numbers_of_transformers(params, ties):
    logits = some_logits(50, ties=ties)
    scores = filter_logits(logits, filters_of([params] * 50))
    assert_same(scores, of_transformers(logits, params), ties=ties)


@pytest.mark.parametrize("ties", [False, True])
def test_rows_of_one_batch_keep_their_own_filters(ties):
    rows = CASES * 3
    logits = some_logits(len(rows), ties=ties)
    scores = filter_logits(logits, filters_of(rows))
    for row, params in enumerate(rows):
        one = logits[row : row + 1]
        assert_same(scores[row : row + 1], of_transformers(one, params), ties=ties)


def test_the_place_of_a_row_and_its_neighbours_leave_no_trace():
    logits = some_logits(64)
    rows = (CASES * 7)[:64]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    scores = filter_logits(logits, filters_of(rows))
    moved = filter_logits(logits[order], filters_of([rows[i] for i in order]))
    assert torch.equal(moved, scores[order])


def test_top_k_keeps_all_that_tie_with_the_last():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    filters = filters_of([SamplingParams(temperature=1.0, top_k=2)])
    assert filter_logits(logits, filters).isfinite().tolist() == [[False, True, True, True, False]]


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    filters = filters_of([SamplingParams(temperature=1.0, top_p=0.7)])
    assert filter_logits(logits, filters).isfinite().tolist() == [[True, True, False, False]]


def test_top_p_keeps_the_higher_ids_of_a_tie():
    filters = filters_of([SamplingParams(temperature=1.0, top_p=0.45)])
    kept = filter_logits(torch.zeros(1, 4), filters).isfinite()
    assert kept.tolist() == [[False, False, True, True]]
