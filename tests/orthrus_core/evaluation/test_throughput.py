import itertools

import pytest

from orthrus_core.evaluation.cost import Hardware
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.evaluation.throughput import Load, adaptive_rate, deal, fixed_rate, simulate, step_s
from tests.orthrus_core.evaluation.shapes import TINY

HIGH, LOW = AcceptanceCurve.geometric(0.9, 8), AcceptanceCurve.geometric(0.3, 8)
FIXED_COST = Hardware(bytes_per_s=1e15, flops_per_s=1e15, overhead_s=1.0)
EVERY_ROW_COSTS = Hardware(bytes_per_s=1e15, flops_per_s=1e6)
BALANCED = Hardware(bytes_per_s=1e6, flops_per_s=4e7, overhead_s=1e-5)  # K/V dear beside the few weights
STEPPED = Hardware(bytes_per_s=1e15, flops_per_s=1e6, overhead_s=0.02)  # a forward costs as much as 53 rows


def test_with_free_rows_rates_are_tokens_over_forwards():
    load = Load((AcceptanceCurve((0.5, 0.5)),), sequences=4, context=0)
    assert fixed_rate(FIXED_COST, TINY, load, 0) == pytest.approx(4 / 1.0)
    assert fixed_rate(FIXED_COST, TINY, load, 2) == pytest.approx(4 * 1.75 / 2.0)


def test_a_step_is_a_draft_and_a_verify_forward():
    load = Load((HIGH,), sequences=3, context=0)
    # 2 x 188 FLOPs per row: 3 anchors + 6 drafts verified, 6 rows drafted
    assert step_s(EVERY_ROW_COSTS, TINY, load, num_drafts=6, drafting=3) == pytest.approx(15 * 376 / 1e6)
    assert step_s(EVERY_ROW_COSTS, TINY, load, num_drafts=0, drafting=0) == pytest.approx(3 * 376 / 1e6)


def test_free_rows_are_drafted_to_the_last_and_costly_ones_not_at_all():
    load = Load((HIGH,), sequences=5, context=0)
    assert adaptive_rate(FIXED_COST, TINY, load)[1] == 5 * 8
    assert adaptive_rate(EVERY_ROW_COSTS, TINY, load)[1] == 0


@pytest.mark.parametrize("hardware", [FIXED_COST, EVERY_ROW_COSTS, BALANCED, STEPPED])
@pytest.mark.parametrize("curves", [(HIGH,), (LOW,), (HIGH, LOW)])
@pytest.mark.parametrize("context", [0, 100, 10_000])
def test_adaptive_is_never_below_ar_or_any_fixed_block_length(hardware, curves, context):
    for one in simulate(
        hardware, TINY, curves, batch_sizes=range(1, 40, 3), contexts=[context], block_sizes=range(1, 9)
    ):
        assert one.adaptive >= max(one.ar, *one.fixed.values()) * (1 - 1e-12)


def test_adaptive_beats_every_fixed_block_length_on_mixed_text():
    [one] = simulate(STEPPED, TINY, [HIGH, LOW], batch_sizes=[8], contexts=[0], block_sizes=range(1, 9))
    assert one.adaptive > 1.02 * max(one.ar, *one.fixed.values())
    assert 0 < one.drafts < 8


@pytest.mark.parametrize("hardware", [BALANCED, STEPPED])
def test_adaptive_agrees_with_trying_every_way_to_deal(hardware):
    curves = (AcceptanceCurve.geometric(0.8, 3), AcceptanceCurve.geometric(0.4, 3))
    load = Load(curves, sequences=3, context=5)
    owners = [curves[0], curves[1], curves[0]]

    def rate(lengths):
        tokens = sum(curve.tokens_per_step(K) for curve, K in zip(owners, lengths, strict=True))
        drafting = sum(K > 0 for K in lengths)
        return tokens / step_s(hardware, TINY, load, num_drafts=sum(lengths), drafting=drafting)

    best = max(rate(lengths) for lengths in itertools.product(range(4), repeat=3))
    assert adaptive_rate(hardware, TINY, load)[0] == pytest.approx(best)


def test_the_likeliest_draft_is_dealt_first():
    first, second = AcceptanceCurve((0.9, 0.5)), AcceptanceCurve((0.6, 0.9))
    assert list(deal([(first, 2), (second, 1)])) == [
        (0.9, True),
        (0.9, True),
        (0.6, True),
        (pytest.approx(0.54), False),
        (0.45, False),
        (0.45, False),
    ]


def test_sequences_take_the_kinds_of_text_in_turn():
    assert Load((HIGH, LOW), sequences=3, context=0).groups == [(HIGH, 2), (LOW, 1)]
    assert Load((HIGH, LOW), sequences=1, context=0).groups == [(HIGH, 1)]


def test_throughput_grows_with_the_batch_and_shrinks_with_the_context():
    table = simulate(
        BALANCED, TINY, [HIGH], batch_sizes=[1, 2, 8, 64], contexts=[0, 50, 500], block_sizes=[8]
    )
    rates = {(one.sequences, one.context): one.adaptive for one in table}
    for context in (0, 50, 500):
        by_batch = [rates[S, context] for S in (1, 2, 8, 64)]
        assert by_batch == sorted(by_batch)
    for S in (1, 2, 8, 64):
        by_context = [rates[S, context] for context in (500, 50, 0)]
        assert by_context == sorted(by_context)


def test_a_load_beyond_the_memory_is_marked():
    small = BALANCED.model_copy(update={"memory_bytes": 2_000.0})
    table = simulate(small, TINY, [HIGH], batch_sizes=[1, 100], contexts=[10], block_sizes=[])
    assert [one.fits for one in table] == [True, False]
