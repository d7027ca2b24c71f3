"""The token rows of a step."""

from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.sequence import Sequence
from orthrus_core.request import SamplingParams


def sequence(num_tokens: int, num_committed: int) -> Sequence:
    one = Sequence(0, list(range(num_tokens)), SamplingParams(), frozenset(), None)
    one.num_committed, one.slot = num_committed, 0
    return one


def test_anchors_and_drafts_are_read_out_and_rows_of_prompts_are_not():
    decoding = Work(sequence(9, 8), 0, has_anchor=True, num_drafts=2)
    begun = Work(sequence(9, 0), 3, has_anchor=False)
    ending = Work(sequence(5, 2), 2, has_anchor=True)
    step = StepLayout.of([decoding, begun, ending], verify_budget=16, choice_budget=6)
    assert step.choosing.tolist() == [0, 1, 2, 8, 0, 0]  # block, anchor behind 3 + 2 rows of prompts, padding
    assert [step.choices[0], step.choices[2]] == [0, 3]
    assert [(rows.line, rows.first, rows.count) for rows in step.verifying()] == [(0, 0, 3), (2, 3, 1)]


def test_where_no_prompt_runs_every_row_is_read_out():
    decoding = Work(sequence(9, 8), 0, has_anchor=True, num_drafts=2)
    assert StepLayout.of([decoding, decoding], verify_budget=8, choice_budget=8).choosing is None


def test_no_more_rows_are_read_out_than_the_head_has_room_for():
    decoding = Work(sequence(9, 8), 0, has_anchor=True, num_drafts=2)
    step = StepLayout.of([decoding, decoding], verify_budget=16, choice_budget=8)
    assert step.choosing.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
