"""Ids that several rows have."""

import base64

import pytest

from pipelines.generate.write.id_hashes import MOST_IDS, count_repeats, hash_ids, kept_share


def hashes(ids, share=1.0):
    return base64.b64decode(hash_ids(ids, share))


def test_every_row_but_the_first_with_an_id_is_counted():
    assert count_repeats(hashes(["a", "b", "a"]) + hashes(["c", "a"]), 1.0) == 2


def test_different_ids_are_no_repeats_and_no_ids_are_none():
    assert count_repeats(hashes(map(str, range(1000))), 1.0) == 0
    assert count_repeats(b"", 0.0) == 0


def test_a_large_run_keeps_a_bounded_number_and_estimates():
    share = kept_share(100 * MOST_IDS)
    assert share == pytest.approx(0.01)
    found = hashes(map(str, range(100_000)), share) * 2
    assert len(found) / 8 == pytest.approx(2000, rel=0.15)
    assert count_repeats(found, share) == pytest.approx(100_000, rel=0.15)


def test_an_id_that_cannot_be_encoded_has_a_hash():
    assert len(hashes(["\ud800"])) == 8
