"""Filters of rows by their parameters."""

from collections.abc import Sequence

import torch

from orthrus_core import SamplingParams
from orthrus_core.choosers.filters import Filters
from orthrus_core.choosers.sampling import RowSampling, pack


def filters_of(rows: Sequence[SamplingParams]) -> Filters:
    return RowSampling(torch.from_numpy(pack((row, 0, params) for row, params in enumerate(rows)))).filters
