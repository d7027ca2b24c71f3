"""What the rows of a forward that sample bring along, collected on the host."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import count_up
from orthrus_core.choosers.filters import Filters
from orthrus_core.engine.layout import ChoosingRows
from orthrus_core.request import SamplingParams
from orthrus_core.transfer import to_device

LINES = ("rows", "seeds", "samples", "top_k", "temperature", "top_p", "min_p")


@dataclass(frozen=True)
class RowSampling:
    """What the sampling token rows of one forward need, R of its T rows, in ascending order.

    Attributes:
        packed: (7, R) int64, a line per name in `LINES`: rows, seeds, samples and top-k, then the bits of
            temperature, top-p and min-p as float64.
    """

    packed: Tensor

    @property
    def rows(self) -> Tensor:
        """(R,) int64, the token rows that sample."""
        return self.packed[0]

    @property
    def seeds(self) -> Tensor:
        """(R,) int64."""
        return self.packed[1]

    @property
    def samples(self) -> Tensor:
        """(R,) int64."""
        return self.packed[2]

    @property
    def filters(self) -> Filters:
        """Of the R rows."""
        temperature, top_p, min_p = self.packed[4:].view(torch.float64)
        return Filters(temperature.float(), self.packed[3], top_p, min_p.float())


def sampling_of(choosing: Iterable[ChoosingRows], device: torch.device) -> RowSampling | None:
    """Collect what a forward's sampling rows need (host work, and one transfer).

    Args:
        choosing: the token rows that choose, by sequence.
        device: where the tensor goes.
    Returns:
        None when every row is greedy.
    """
    sampled = [one for one in choosing if one.sequence.params.temperature]
    if not sampled:
        return None
    table = pack((one.first, one.sequence.sample, one.sequence.params) for one in sampled)
    counts = np.array([one.count for one in sampled])
    packed = np.repeat(table, counts, axis=1)
    packed[0] += count_up(counts)
    return RowSampling(to_device(packed, device))


def pack(rows: Iterable[tuple[int, int, SamplingParams]]) -> np.ndarray:
    """Return (7, R) int64 of rows (token row, sample, parameters), see `RowSampling`."""
    wholes, numbers = [], []
    for row, sample, params in rows:
        wholes.append((row, params.seed, sample, params.top_k))
        numbers.append((params.temperature, params.top_p, params.min_p))
    return np.concatenate([np.array(wholes, dtype=np.int64).T, np.array(numbers).T.copy().view(np.int64)])
