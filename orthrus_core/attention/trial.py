"""Random paged attention and its plain answer: what a backend is tried with before it is trusted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend, LayerAttend
from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.rows import RowBuffer, Span, SpanRows, fill, span_rows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.view import AttentionLayer, View

TRIAL_CELLS = 300  # two splits of the Triton kernel
TRIAL_ROWS = (1, 2, 3, 5, 8, 21)  # of a sequence, side by side
TRIAL_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Trial:
    """One random forward of one layer.

    Attributes:
        q: (T, H, Dh).
        k: (T, Hkv, Dh).
        v: (T, Hkv, Dh).
        keys: (pages, page_size, Hkv, Dh), full of what earlier forwards would have left.
        values: likewise.
        packed: (5, T) int64, see `TokenRows`.
        page_tables: (slots, pages per sequence) int64.
        spans: the rows in use.
        spec: sizes, dtype and device.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    keys: Tensor
    values: Tensor
    packed: Tensor
    page_tables: Tensor
    spans: SpanRows
    spec: AttentionSpec

    @property
    def num_used(self) -> int:
        """Rows that are not left over."""
        return len(self.spans.positions)

    def run(
        self,
        backend: AttentionBackend,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """Return a backend's answer (T, H, Dh); the trial's own cache stays as it is."""
        arrangement = backend.arrange(self.spans, len(self.q))
        keys, values = self.keys.clone(), self.values.clone()
        at = LayerAttend(keys, values, backend, self.packed, self.page_tables, arrangement)
        return backend.attend(self.q, self.k, self.v, AttentionLayer(0, scaling, window, softcap), at)

    def answer(self, *, scaling: float, window: int | None = None, softcap: float | None = None) -> Tensor:
        """Return (rows in use, H, Dh) float32, each row attending in plain words."""
        promoted = {name: getattr(self, name).float() for name in ("q", "k", "v", "keys", "values")}
        plain = PlainAttention(self.spec)
        out = replace(self, **promoted).run(plain, scaling=scaling, window=window, softcap=softcap)
        return out[: self.num_used]


def random_trial(
    spec: AttentionSpec,
    spans: Sequence[Span],
    *,
    token_budget: int,
    causal: bool = True,
    num_slots: int | None = None,
) -> Trial:
    """Return a forward over sequences of at most `max_context` cells, their pages in random order.

    Queries, keys and values are a function of the number of slots, and a row's slot and position. Cells
    before a span hold what earlier forwards would have written there, all others noise. So a row of the AR
    view sees the same however its sequence is cut into spans.

    Args:
        spec: sizes, dtype and device.
        spans: at most T rows, one span per slot.
        token_budget: T.
        causal: the AR view's limits, else the diffusion view's.
        num_slots: sequences; None: those of the spans.
    """
    num_slots = num_slots or max(span.slot for span in spans) + 1
    generator = torch.Generator().manual_seed(0)
    pages_each = -(-spec.max_context // spec.page_size)
    pages = torch.randperm(num_slots * pages_each, generator=generator).view(num_slots, -1) + 1
    view: View = "ar" if causal else "diffusion"
    rows = span_rows(spans, view=view, page_tables=pages.numpy(), page_size=spec.page_size)
    buffer = RowBuffer(token_budget, spec.device)
    fill(buffer, rows)
    cells = (pages[:, :, None] * spec.page_size + torch.arange(spec.page_size)).flatten(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, spec.head_dim, generator=generator).to(spec.dtype)

    def cache(contents: Tensor) -> Tensor:
        held = random(num_slots * pages_each + 1, spec.page_size, spec.num_kv_heads)
        for span in spans:
            held.flatten(0, 1)[cells[span.slot, : span.start]] = contents[span.slot, : span.start]
        return held

    q, k, v = (random(*cells.shape, heads) for heads in (spec.num_heads, *[spec.num_kv_heads] * 2))
    slots, positions = torch.from_numpy(buffer.array[2]), torch.from_numpy(buffer.array[4])
    q_rows, k_rows, v_rows = (x[slots, positions].to(spec.device) for x in (q, k, v))
    keys, values = (cache(x).to(spec.device) for x in (k, v))
    tables = pages.to(spec.device)
    return Trial(q_rows, k_rows, v_rows, keys, values, buffer.to_device(), tables, rows, spec)


def trial_error(backend: AttentionBackend, spec: AttentionSpec) -> float:
    """Return a backend's largest error on two short spans and rows left over, in both views."""
    spec = replace(spec, max_context=min(spec.max_context, TRIAL_CELLS))
    spans = [Span(0, max(0, spec.max_context - 3), [0] * 3), Span(1, 0, [0])]
    scaling, softcap = spec.head_dim**-0.5, 2.0 if spec.has_softcap else None
    errors = []
    for causal in (True, False):
        trial = random_trial(spec, spans, token_budget=8, causal=causal)
        answer = trial.answer(scaling=scaling, softcap=softcap)
        difference = trial.run(backend, scaling=scaling, softcap=softcap)[:4].float() - answer
        errors.append(difference.abs().nan_to_num(float("inf")).max())
    return float(max(errors))


def keeps_bits(backend: AttentionBackend, spec: AttentionSpec) -> bool:
    """Whether a row has the same bits alone and beside any others of its sequence, in the AR view.

    A compiler may round products and sums otherwise in the loop for few rows than in that for many.
    """
    num_pages, page_size = -(-TRIAL_CELLS // spec.page_size), spec.page_size
    device, generator = spec.device, torch.Generator().manual_seed(0)
    cache = backend.new_cache(num_layers=1, num_pages=1 + num_pages)
    tables = torch.arange(1, 1 + num_pages)[None]
    heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    q, k, v = (
        torch.randn(TRIAL_CELLS, H, spec.head_dim, generator=generator).to(device, spec.dtype) for H in heads
    )
    layer = AttentionLayer(0, spec.head_dim**-0.5, softcap=2.0 if spec.has_softcap else None)

    def run(first: int, count: int) -> Tensor:
        rows = span_rows(
            [Span(0, first, [0] * count)], view="ar", page_tables=tables.numpy(), page_size=page_size
        )
        buffer, own = RowBuffer(count, device), slice(first, first + count)
        fill(buffer, rows)
        packed, arrangement = buffer.to_device(), backend.arrange(rows, count)
        at = LayerAttend(cache.keys[0], cache.values[0], backend, packed, tables.to(device), arrangement)
        return backend.attend(q[own], k[own], v[own], layer, at)

    together = run(0, TRIAL_CELLS)
    parts = [(first, size) for size in TRIAL_ROWS for first in range(0, TRIAL_CELLS - size, 7 * size)]
    return all(torch.equal(run(first, size), together[first : first + size]) for first, size in parts)
