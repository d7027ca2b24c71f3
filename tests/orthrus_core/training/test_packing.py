from itertools import count, islice

import pytest
import torch

from orthrus_core.errors import ConfigError
from orthrus_core.training.packing import Document, collate, has_next, packed_batches

F, T = False, True


def documents(*lengths: int) -> list[Document]:
    """Documents of one prompt token and `length - 1` completion tokens, ids counting up from 1."""
    ids = count(1)
    return [Document([next(ids)], [next(ids) for _ in range(length - 1)]) for length in lengths]


def test_documents_stand_side_by_side_with_positions_of_their_own():
    batch = collate([[Document([5], [6, 7]), Document([8, 9], [4])]], sequence_len=7)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 4, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 0]]
    assert batch.document_idx.tolist() == [[0, 0, 0, 1, 1, 1, -1]]
    assert batch.is_completion.tolist() == [[F, T, T, F, F, T, F]]
    assert batch.num_tokens == 6


def test_the_last_token_of_a_document_has_no_next():
    batch = collate([[Document([5], [6, 7]), Document([8], [4])], []], sequence_len=6)
    assert has_next(batch).tolist() == [[T, T, F, T, F, F], [F] * 6]


def test_a_document_that_fits_nowhere_waits_for_the_next_batch():
    batches = list(packed_batches(documents(3, 4, 2, 3), sequence_len=5, sequences_per_batch=1))
    assert [batch.num_tokens for batch in batches] == [5, 4, 3]
    assert batches[0].input_ids.tolist() == [[1, 2, 3, 8, 9]]


def test_every_document_is_packed_once():
    batches = packed_batches(
        documents(*[2, 3, 5, 4] * 9), sequence_len=7, sequences_per_batch=2, max_waiting=3
    )
    ids = sorted(i for batch in batches for i in batch.input_ids[batch.document_idx >= 0].tolist())
    assert ids == list(range(1, 14 * 9 + 1))


def test_an_endless_stream_is_packed_lazily():
    stream = (Document([1], [2, 3]) for _ in count())
    batches = list(islice(packed_batches(stream, sequence_len=6, sequences_per_batch=2), 3))
    assert all(torch.all(batch.document_idx >= 0) for batch in batches)


def test_a_document_longer_than_a_packed_row_is_refused():
    with pytest.raises(ConfigError, match="has 6 tokens, sequence_len is 5"):
        list(packed_batches(documents(6), sequence_len=5, sequences_per_batch=1))


def test_rows_are_padded_to_a_multiple():
    batch = collate([[Document([5], [6, 7])]], sequence_len=3)
    padded = batch.padded(4)
    assert padded.input_ids.tolist() == [[5, 6, 7, 0]]
    assert padded.position_ids.tolist() == [[0, 1, 2, 0]]
    assert padded.document_idx.tolist() == [[0, 0, 0, -1]]
    assert padded.is_completion.tolist() == [[F, T, T, F]]
    assert padded.padded(4) is padded
