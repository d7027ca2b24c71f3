"""Backends on equal terms: the same logical keys and values in each one's own pages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from orthrus_core.attention.backend import PagedAttend
from orthrus_core.attention.kernel import KernelShape, build_kernel
from orthrus_core.attention.native import NativeAttention
from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.rows import LINES, RowBuffer, Span, fill, span_rows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import PagePool, PageTables

CPU = torch.device("cpu")
SCALING = 0.25


def new_backend(name: str, *, H: int, Hkv: int, Dh: int, page_size: int, dtype: torch.dtype):
    if name == "native":
        shape = KernelShape(Dh, H // Hkv, page_size, dtype)
        return NativeAttention(build_kernel(shape), shape, num_kv_heads=Hkv)
    return PlainAttention(AttentionSpec(H, Hkv, Dh, page_size, 1024, dtype, CPU))


class Rig:
    """One backend and the sequences of one seed, their K/V written in chunks of 16 rows."""

    def __init__(
        self,
        name: str,
        *,
        lengths: Sequence[int],
        H: int = 6,
        Hkv: int = 2,
        Dh: int = 16,
        page_size: int = 16,
        dtype: torch.dtype = torch.float32,
    ):
        self.backend = new_backend(name, H=H, Hkv=Hkv, Dh=Dh, page_size=page_size, dtype=dtype)
        num_pages = sum(-(-length // page_size) for length in lengths) + 1
        pool = PagePool(num_pages, page_size)
        self.tables = PageTables(pool, num_slots=len(lengths), pages_per_sequence=num_pages - 1)
        self.cache = self.backend.new_cache(num_layers=1, num_pages=num_pages)
        generator = torch.Generator().manual_seed(0)
        self.q, self.k, self.v = (
            [torch.randn(length, heads, Dh, generator=generator).to(dtype) for length in lengths]
            for heads in (H, Hkv, Hkv)
        )
        for slot, length in enumerate(lengths):
            self.tables.grow(slot, length)
            for start in range(0, length, 16):
                self.attend([(slot, start, min(start + 16, length))])

    def attend(
        self,
        spans: Sequence[tuple[int, int, int]],
        *,
        view: str = "ar",
        num_rows: int | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> list[Tensor]:
        """Run (slot, start, end) spans in one forward; (rows, H, Dh) of each."""
        laid_out = [Span(slot, start, [0] * (end - start)) for slot, start, end in spans]
        counts = [end - start for _, start, end in spans]
        T = num_rows or sum(counts)
        rows = span_rows(
            laid_out, view=view, page_tables=self.tables.pages, page_size=self.tables.pool.page_size
        )
        buffer = RowBuffer(T, CPU)
        fill(buffer, rows)
        attend = PagedAttend(
            *(self.backend, self.cache, buffer.to_device()),
            *(torch.from_numpy(self.tables.pages), self.backend.arrange(rows, T)),
        )
        out = self.backend.attend(
            *(self._stack(x, spans, T) for x in (self.q, self.k, self.v)),
            AttentionLayer(0, SCALING, window, softcap),
            attend.of_layer(0),
        )
        return list(out[: sum(counts)].split(counts))

    @staticmethod
    def _stack(numbers: list[Tensor], spans: Sequence[tuple[int, int, int]], T: int) -> Tensor:
        used = torch.cat([numbers[slot][start:end] for slot, start, end in spans])
        padding = torch.full((T - len(used), *used.shape[1:]), float(len(LINES)), dtype=used.dtype)
        return torch.cat([used, padding])
