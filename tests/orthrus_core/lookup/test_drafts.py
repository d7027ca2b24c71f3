"""What is looked up, on hand-made texts."""

import random

import numpy as np
import pytest

from orthrus_core import SamplingParams
from orthrus_core.engine.sequence import Sequence
from orthrus_core.lookup.drafts import LookupDrafts
from orthrus_core.lookup.index import EVERYWHERE, FIRST_TOKENS, WINDOW, Ends, TextIndex
from orthrus_core.lookup.record import CORPUS, OWN, MatchRecord, kinds_of


def sequence(request_id: int, prompt: list[int], said: list[int] = ()) -> Sequence:
    one = Sequence(request_id, list(prompt), SamplingParams(), frozenset(), None)
    one.token_ids += said
    return one


def new_lookup(num_tokens: int = 10_000) -> LookupDrafts:
    return LookupDrafts(num_tokens=num_tokens, num_slots=4, most_drafts=8)


def drafts_of(offer, line: int = 0) -> list[int]:
    return offer.token_ids[line, : offer.counts[line]].tolist()


def test_what_followed_in_the_own_prompt_is_proposed():
    assert drafts_of(new_lookup().offer([sequence(0, [*range(10, 30), 50, 51, *range(10, 18)])])) == [
        18, 19, 20, 21, 22, 23, 24, 25,
    ]  # fmt: skip


def test_what_followed_in_the_own_text_is_proposed_and_a_repetition_goes_on():
    one = sequence(0, [9], [1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    assert drafts_of(new_lookup().offer([one])) == [2, 3, 1, 2, 3, 1, 2, 3]


def test_text_is_taken_in_as_it_comes():
    lookup, one = new_lookup(), sequence(0, [9], [5, 6, 7, 8])
    assert drafts_of(lookup.offer([one])) == []
    one.token_ids += [40, 5, 6, 7]
    assert drafts_of(lookup.offer([one]))[:1] == [8]


def test_another_sample_of_the_prompt_is_followed():
    lookup, prompt = new_lookup(), [1, 2, 3]
    first, second = sequence(0, prompt, [20, 21, 22, 23, 24, 25]), sequence(1, prompt, [20, 21, 22])
    lookup.offer([first])
    assert drafts_of(lookup.offer([first, second]), 1) == [23, 24, 25]


def test_rows_that_ended_are_a_corpus():
    lookup = new_lookup()
    ended = sequence(0, [1, 2], [*range(20, 40)])
    lookup.offer([ended])
    ended.token_ids += [40, 41]
    lookup.leave(ended)
    assert drafts_of(lookup.offer([sequence(1, [7, 8], [*range(30, 38)])])) == [38, 39, 40, 41]


def test_the_longest_run_wins():
    # behind [5] last came 9, behind [3, 4, 5] before that came 6
    one = sequence(0, [1, 2, 3, 4, 5, 6, 7, 8, 5, 9, 1, 2, 3, 4, 5])
    assert drafts_of(new_lookup().offer([one]))[:2] == [6, 7]


def test_a_preempted_sequence_is_followed_again():
    lookup, one = new_lookup(), sequence(0, [9], [1, 2, 3, 4, 1, 2])
    lookup.offer([one])
    lookup.leave(one)
    assert drafts_of(lookup.offer([one]))[:2] == [3, 4]


def test_more_sequences_than_slots_come_one_after_the_other():
    lookup = new_lookup()
    for number in range(50):
        one = sequence(number, [number, 1], [2, 3])
        lookup.offer([one])
        lookup.leave(one)
    assert drafts_of(lookup.offer([sequence(99, [98, 1], [2])]))[:1] == [3]


def test_planted_repetitions_are_found_in_random_text():
    source = random.Random(0)
    planted = [source.randrange(1000) for _ in range(40)]
    lookup = new_lookup()
    for number in range(20):
        ended = sequence(number, [source.randrange(1000) for _ in range(100)], planted)
        lookup.offer([ended])
        lookup.leave(ended)
    found = 0
    for start in range(8, 30):
        one = sequence(100 + start, [source.randrange(1000) for _ in range(50)], planted[start - 8 : start])
        found += drafts_of(lookup.offer([one]))[:4] == planted[start : start + 4]
        lookup.leave(one)
    assert found >= 20  # newer entries of the table take the places of older ones


def test_what_was_pushed_out_of_the_log_is_not_proposed():
    lookup = new_lookup(num_tokens=64)
    ended = sequence(0, [1, 2], [*range(20, 40)])
    lookup.offer([ended])
    lookup.leave(ended)
    lookup.offer([sequence(1, [*range(100, 164)])])
    assert drafts_of(lookup.offer([sequence(2, [7], [30, 31, 32])])) == []


def test_memory_stays_within_its_bound():
    index, counts = TextIndex(20_000), np.array([1000])
    ends, scopes = Ends.empty(1)._replace(texts=np.array([1])), np.array([[1, EVERYWHERE]])
    first = index.nbytes
    for number in range(60):
        ends = index.append(ends, counts, np.random.default_rng(number).integers(0, 500, 1000), scopes)
    assert index.num_seen == 60_000
    assert first <= 20_000 * 16 + FIRST_TOKENS * 64
    assert index.nbytes <= 20_000 * (16 + 128)  # the table is rounded up to a power of two


def test_a_table_that_grows_finds_what_it_knew():
    index = TextIndex(100_000)
    ends, scopes = Ends.empty(1)._replace(texts=np.array([1])), np.array([[1]])
    text = np.random.default_rng(0).integers(0, 10_000, 3 * FIRST_TOKENS)
    for part in np.split(text, 3):
        ends = index.append(ends, np.array([len(part)]), part, scopes)
    window = text[100 : 100 + WINDOW][None]
    places, _ = index.find(Ends(np.array([2]), np.array([-1]), window), scopes)
    assert places[0, 0, -1] == 100 + WINDOW


def test_estimates_follow_the_outcomes():
    record = MatchRecord(4)
    wrong, right = (kinds_of(np.array([source]), np.array([2])) for source in (OWN, CORPUS))
    drafts = np.array([[1, 2, 3, 4]])
    for _ in range(200):
        record.learn(wrong, drafts, np.array([[9, 9, 9, 9]]))
        record.learn(right, drafts, drafts)
    assert record.survival[wrong][0, 0] < 0.05
    assert record.survival[right][0] == pytest.approx(1.0, abs=0.2)


def test_behind_the_first_wrong_draft_nothing_is_learnt():
    record, kinds = MatchRecord(4), kinds_of(np.array([OWN]), np.array([0]))
    before = record.survival.copy()
    record.learn(kinds, np.array([[1, 2, 3, 4]]), np.array([[9, 2, 3, 4]]))
    changed = np.flatnonzero((record.survival != before).any(axis=1))
    assert changed.tolist() == kinds.tolist()
