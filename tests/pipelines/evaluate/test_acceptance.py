from orthrus_core import Completion, CompletionStats
from pipelines.evaluate.acceptance import acceptance, accepted_by_position, counts_since


def test_acceptance_figures_are_sums_over_rows_and_means_over_questions():
    stats = [
        CompletionStats(completion_tokens=9, step_tokens=8, steps=2, forwards=4),
        CompletionStats(completion_tokens=3, step_tokens=2, steps=2, forwards=3),
    ]
    rows = [
        Completion(0, [], reason, None, one) for reason, one in zip(("stop", "length"), stats, strict=True)
    ]
    assert acceptance(rows) == {
        "completion_tokens": 12,
        "acceptance_length": 2.5,
        "tokens_per_forward": 10 / 7,
        "per_question": {"acceptance_length": 2.5, "tokens_per_forward": (2 + 2 / 3) / 2},
        "finish_reasons": {"stop": 1, "length": 1},
    }


def test_a_position_s_share_is_of_the_blocks_that_long():
    counts = {"accepted_by_position": [3, 1, 0], "drafted_by_position": [4, 2, 0]}
    assert accepted_by_position(counts) == [0.75, 0.5, 0.0]


def test_counts_of_an_engine_s_second_run_leave_out_the_first():
    before = {"mode": "consensus", "accepted_by_position": [3], "drafted_by_position": [4]}
    now = {"mode": "consensus", "accepted_by_position": [5, 1], "drafted_by_position": [9, 2]}
    counts = {"accepted_by_position": [2, 1], "drafted_by_position": [5, 2]}
    assert counts_since(before, now) == {"mode": "consensus"} | counts
