import json
import random
from itertools import count, islice

import pytest
import torch

from orthrus_core.errors import ConfigError
from orthrus_core.training.config import PackingConfig
from orthrus_core.training.packing import Document, packed_batches
from pipelines.train.stream import PackedStream

PACKING = PackingConfig(sequence_len=40, sequences_per_batch=2)


class Numbers:
    """Document i has a length that follows from i."""

    def __init__(self, longest: int = 30):
        self.number, self.longest = 0, longest

    def __next__(self) -> Document:
        self.number += 1
        return document(self.number - 1, self.longest)

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def document(number: int, longest: int = 30) -> Document:
    return Document([number], [number] * random.Random(number).randint(1, longest - 1))


def same(first, second) -> bool:
    return all(map(torch.equal, first, second))


def test_batches_are_those_of_packed_batches():
    plain = packed_batches((document(i) for i in count()), sequence_len=40, sequences_per_batch=2)
    both = list(islice(zip(PackedStream(Numbers(), PACKING), plain, strict=False), 20))
    assert len(both) == 20
    assert all(same(ours, theirs) for ours, theirs in both)


@pytest.mark.parametrize("batches", [0, 1, 7])
def test_a_position_keeps_the_documents_that_wait(batches):
    stream = PackedStream(Numbers(), PACKING)
    for _ in range(batches):
        next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    assert bool(state["waiting"]) == (batches > 0)
    other = PackedStream(Numbers(), PACKING)
    other.load_state_dict(state)
    assert all(same(next(other), next(stream)) for _ in range(10))


def test_a_document_that_fits_nowhere_is_named():
    stream = PackedStream(Numbers(longest=90), PACKING)
    with pytest.raises(
        ConfigError, match="packing.sequence_len must be at least .* got 40 and a document of"
    ):
        next(stream)
