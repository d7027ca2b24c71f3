import dataclasses

import pytest
import torch

from orthrus_core import Completion, CompletionStats, Engine, EngineConfig, SamplingParams
from orthrus_core.evaluation.exactness import (
    Difference,
    compare_completions,
    compare_outputs,
    logit_gap,
    wilson_interval,
)
from tests.small_models import small_orthrus

CONFIG = {"token_budget": 32, "max_sequences": 3, "max_context": 128}
PARAMS = SamplingParams(max_new_tokens=20)
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19]]


def completion(token_ids, *, reason="stop", logprob=-1.5, gap=0.25, error=None):
    stats = CompletionStats(logprob=logprob, min_logit_gap=gap)
    return Completion(0, token_ids, reason, error, stats)


@pytest.fixture(scope="module")
def both():
    model = small_orthrus(sameness=0.2)
    engines = (Engine(model, EngineConfig(mode=mode, **CONFIG)) for mode in ("consensus", "autoregressive"))
    return [engine.generate(PROMPTS, PARAMS) for engine in engines]


def test_both_modes_of_one_model_agree_to_the_bit(both):
    comparison = compare_completions(*both)
    assert (comparison.rows, comparison.identical_tokens, comparison.identical_logprobs) == (5, 5, 5)
    assert comparison.differences == ()


def test_one_planted_token_is_found_and_named(both):
    planted = list(both[0])
    good = planted[3]
    wrong_ids = [*good.token_ids[:7], good.token_ids[7] + 1, *good.token_ids[8:]]
    planted[3] = dataclasses.replace(good, token_ids=wrong_ids)
    comparison = compare_completions(planted, both[1])
    assert (comparison.rows, comparison.identical_tokens, comparison.identical_logprobs) == (5, 4, 4)
    [difference] = comparison.differences
    assert difference == Difference(
        row=3,
        position=7,
        token_id=good.token_ids[7] + 1,
        reference_id=good.token_ids[7],
    )


def test_a_completion_that_goes_on_longer_differs_where_the_other_ended():
    comparison = compare_completions([completion([4, 5, 6])], [completion([4, 5])])
    assert comparison.differences == (Difference(0, 2, 6, None),)


def test_the_last_bit_of_a_logprob_counts():
    comparison = compare_completions([completion([4])], [completion([4], logprob=-1.5000000000000002)])
    assert (comparison.identical_tokens, comparison.identical_logprobs) == (1, 0)
    assert comparison.differences == (Difference(0, None, None, None),)


def test_another_finish_reason_is_a_difference():
    comparison = compare_completions([completion([4], reason="length")], [completion([4])])
    assert (comparison.identical_tokens, comparison.identical_logprobs) == (0, 0)


def test_rows_that_could_not_run_are_not_called_identical():
    failed = completion([], reason="error", error="prompt is empty")
    comparison = compare_completions([failed, completion([4])], [failed, completion([4])])
    assert (comparison.rows, comparison.errors, comparison.identical_tokens) == (1, 1, 1)


def test_systems_without_numbers_are_compared_by_their_tokens():
    comparison = compare_outputs([[1, 2], [3]], [[1, 4], [3]])
    assert (comparison.rows, comparison.identical_tokens) == (2, 1)
    assert comparison.differences == (Difference(0, 1, 2, 4),)


def test_the_gap_is_that_of_the_two_best_logits_after_the_last_token():
    model = small_orthrus()
    with torch.no_grad():
        logits = sorted(model(torch.tensor([[5, 6, 7]])).logits[0, 2].tolist())
    assert logit_gap(model, [5, 6, 7]) == pytest.approx(logits[-1] - logits[-2], abs=1e-6)


@pytest.mark.parametrize(
    ("count", "total", "bounds"),
    [
        (8, 10, (0.4902, 0.9433)),  # by hand: 0.7169 +- 0.2266
        (0, 10, (0.0, 0.2775)),
        (1319, 1319, (0.9971, 1.0)),  # 1319 / (1319 + 1.96^2)
    ],
)
def test_wilson_intervals(count, total, bounds):
    assert wilson_interval(count, total) == pytest.approx(bounds, abs=1e-4)


@pytest.mark.parametrize("count", [0, 1])
def test_an_interval_holds_the_share_itself_at_both_ends(count):
    for total in range(1, 600):
        low, high = wilson_interval(count * total, total)
        assert 0 <= low <= count <= high <= 1
