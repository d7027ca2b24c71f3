"""Random paged attention and its plain answer: what a backend is tried with before it is trusted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.paged_rows import AttentionSpec, PagedRows


class Backend(Protocol):
    """What the paged attention backends have in common."""

    name: str

    def plan_size(self, token_budget: int) -> int:
        """Length of the array that `plan` returns for T rows."""
        ...

    def plan(self, counts: np.ndarray, limits: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Arrange one forward on the host; see `Tiling.plan` and `VarlenBackend.plan`."""
        ...

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        keys: Tensor,
        values: Tensor,
        rows: PagedRows,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """See `TritonBackend.attend`."""
        ...


@dataclass(frozen=True)
class TrialSpan:
    """Rows of one sequence: slot, first position and count."""

    slot: int
    start: int
    count: int


@dataclass(frozen=True)
class Trial:
    """One random forward of one layer.

    Attributes:
        q: (T, H, Dh).
        k: (T, Hkv, Dh).
        v: (T, Hkv, Dh).
        keys: (pages, page_size, Hkv, Dh), full of what earlier forwards would have left.
        values: likewise.
        rows: the forward's rows, their plan empty.
        counts: rows of each span.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    keys: Tensor
    values: Tensor
    rows: PagedRows
    counts: np.ndarray

    def run(self, backend: Backend, *, scaling: float, window: int | None = None) -> Tensor:
        """Return a backend's answer (T, H, Dh); the trial's own cache stays as it is."""
        plan = backend.plan(self.counts, self.rows.limits.cpu().numpy(), self.rows.slots.cpu().numpy())
        rows = replace(self.rows, plan=torch.from_numpy(plan).to(self.q.device))
        return backend.attend(
            self.q,
            self.k,
            self.v,
            keys=self.keys.clone(),
            values=self.values.clone(),
            rows=rows,
            scaling=scaling,
            window=window,
        )

    def answer(self, *, scaling: float, window: int | None = None) -> Tensor:
        """Return (used rows, H, Dh) float32, by softmax over all cells of a row's sequence."""
        rows, page_size = self.rows, self.keys.shape[1]
        used = int(self.counts.sum())
        keys, values = (
            cache.flatten(0, 1).index_copy(0, rows.cells, new).float()
            for cache, new in ((self.keys, self.k), (self.values, self.v))
        )
        offsets = torch.arange(page_size, device=keys.device)
        out = torch.empty(used, *self.q.shape[1:], device=keys.device)
        for row in range(used):
            cells = (rows.page_tables[rows.slots[row]][:, None] * page_size + offsets).flatten()
            place = torch.arange(len(cells), device=keys.device)
            seen = place <= rows.limits[row]
            if window is not None:
                seen &= place > rows.positions[row] - window
            k, v = keys[cells[seen]], values[cells[seen]]
            q = self.q[row].float().view(k.shape[1], -1, k.shape[2])
            weights = (torch.einsum("hrd,chd->hrc", q, k) * scaling).softmax(-1)
            out[row] = torch.einsum("hrc,chd->hrd", weights, v).flatten(0, 1)
        return out


def random_trial(
    spec: AttentionSpec,
    spans: Sequence[TrialSpan],
    *,
    token_budget: int,
    causal: bool = True,
    seed: int = 0,
    num_slots: int | None = None,
) -> Trial:
    """Return a forward over sequences of at most `max_context` cells, their pages in random order.

    Queries, keys and values are a function of the seed, the number of slots, and a row's slot and position.
    Cells before a span hold what earlier forwards would have written there, all others noise. So a row of
    the AR view sees the same however its sequence is cut into spans.

    Args:
        spec: sizes, dtype and device.
        spans: at most T rows, one span per slot.
        token_budget: T.
        causal: the AR view's limits, else the diffusion view's.
        seed: of contents and pages.
        num_slots: sequences; None: those of the spans.
    """
    num_slots = num_slots or max(span.slot for span in spans) + 1
    generator = torch.Generator().manual_seed(seed)
    pages_each = -(-spec.max_context // spec.page_size)
    tables = torch.zeros(num_slots + 1, pages_each, dtype=torch.int64)  # the last line is scratch
    tables[:num_slots] = torch.randperm(num_slots * pages_each, generator=generator).view(num_slots, -1) + 1
    counts, slots, positions, limits = _rows(spans, token_budget, scratch=num_slots, causal=causal)
    cells = tables[:, :, None] * spec.page_size + torch.arange(spec.page_size)
    cells = cells.flatten(1)  # (slots, positions)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, spec.head_dim, generator=generator).to(spec.dtype)

    def cache(contents: Tensor) -> Tensor:
        held = random(num_slots * pages_each + 1, spec.page_size, spec.num_kv_heads)
        for span in spans:
            held.flatten(0, 1)[cells[span.slot, : span.start]] = contents[span.slot, : span.start]
        return held

    q, k, v = (random(*cells.shape, heads) for heads in (spec.num_heads, *[spec.num_kv_heads] * 2))
    device = spec.device
    rows = PagedRows(
        cells=cells[slots, positions].to(device),
        slots=slots.to(device),
        limits=limits.to(device),
        positions=positions.to(device),
        page_tables=tables.to(device),
        plan=torch.empty(0, dtype=torch.int32, device=device),
        causal=causal,
    )
    q_rows, k_rows, v_rows = (x[slots, positions].to(device) for x in (q, k, v))
    return Trial(q_rows, k_rows, v_rows, cache(k).to(device), cache(v).to(device), rows, counts)


def trial_error(backend: Backend, spec: AttentionSpec) -> float:
    """Return a backend's largest error on two short spans and rows left over, in both views."""
    spans = [TrialSpan(0, max(0, min(spec.max_context, 40) - 3), 3), TrialSpan(1, 0, 1)]
    scaling = spec.head_dim**-0.5
    errors = []
    for causal in (True, False):
        trial = random_trial(spec, spans, token_budget=8, causal=causal)
        difference = trial.run(backend, scaling=scaling)[:4].float() - trial.answer(scaling=scaling)
        errors.append(difference.abs().nan_to_num(float("inf")).max())
    return float(max(errors))


def _rows(
    spans: Sequence[TrialSpan], token_budget: int, *, scratch: int, causal: bool
) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
    """Return the spans' counts, and slots, positions and limits of T rows."""
    counts = np.array([span.count for span in spans])
    slots = torch.full((token_budget,), scratch)
    positions, limits = torch.zeros(2, token_budget, dtype=torch.int64)
    row = 0
    for span in spans:
        rows = slice(row, row + span.count)
        slots[rows] = span.slot
        positions[rows] = torch.arange(span.start, span.start + span.count)
        limits[rows] = positions[rows] if causal else span.start + span.count - 1
        row += span.count
    return counts, slots, positions, limits
