"""Device copies of per-forward plans, at addresses that CUDA graphs can rely on."""

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import SpanRows
from orthrus_core.transfer import stage


class PlanBuffers:
    """One buffer per view and number of rows; it lasts until the same view's rows are arranged again."""

    def __init__(self, device: torch.device):
        self._device = device
        self._buffers: dict[tuple[bool, int], Tensor] = {}

    def put(self, plan: np.ndarray, spans: SpanRows, num_rows: int, *, size: int) -> Tensor:
        """Copy a plan to the beginning of its buffer.

        Args:
            plan: int32.
            spans: whose view counts.
            num_rows: T.
            size: length of the longest plan of T rows.
        """
        key = (spans.causal, num_rows)
        if key not in self._buffers:
            self._buffers[key] = torch.zeros(size, dtype=torch.int32, device=self._device)
        self._buffers[key][: len(plan)].copy_(stage(plan, self._device), non_blocking=True)
        return self._buffers[key]
