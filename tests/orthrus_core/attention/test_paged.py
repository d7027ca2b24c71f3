"""The fast attention against the slow one, and its bits against themselves."""

import pytest
import torch

from orthrus_core.attention.reference import attend_reference
from orthrus_core.attention.sdpa import attend_sdpa
from orthrus_core.cache import KVCache, PagePool, PageTables
from orthrus_core.decoding.rows import AttentionShapes, Span, lay_out

H, HKV, DH = 6, 2, 16
SHAPES = AttentionShapes()


def filled(dtype: torch.dtype, lengths: list[int], page_size: int) -> tuple[KVCache, PageTables]:
    num_pages = sum(-(-length // page_size) for length in lengths) + 1
    cache = KVCache(
        num_layers=1, num_pages=num_pages, page_size=page_size, num_kv_heads=HKV, head_dim=DH, dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for tensor in (cache.keys[0], cache.values[0]):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    tables = PageTables(PagePool(num_pages, page_size), num_slots=len(lengths), pages_per_sequence=num_pages)
    for slot, length in enumerate(lengths):
        tables.grow(slot, length)
    return cache, tables


def queries(dtype: torch.dtype, count: int) -> torch.Tensor:
    return torch.randn(count, H, DH, generator=torch.Generator().manual_seed(1)).to(dtype)


def groups_of(tables: PageTables, spans: list[Span], view: str, shapes: AttentionShapes = SHAPES):
    return lay_out(
        spans, view=view, token_budget=sum(len(s.token_ids) for s in spans), page_tables=tables.pages,
        page_size=tables.pool.page_size, shapes=shapes, device=torch.device("cpu"),
    ).groups  # fmt: skip


@pytest.mark.parametrize("view", ["ar", "diffusion"])
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("window", [None, 7])
def test_equals_the_reference_on_odd_sizes(view, page_size, window):
    cache, tables = filled(torch.float32, [300, 33, 5], page_size)
    spans = [Span(0, 290, [0] * 9), Span(1, 0, [0] * 33), Span(2, 4, [0])]
    groups = groups_of(tables, spans, view)
    q = queries(torch.float32, 43)
    arguments = {"layer_idx": 0, "scaling": 0.25, "window": window}
    fast, slow = (attend(q, cache, groups, **arguments) for attend in (attend_sdpa, attend_reference))
    torch.testing.assert_close(fast, slow, atol=2e-6, rtol=1e-5)


def test_the_portable_tile_arithmetic_equals_the_fused_one(monkeypatch):
    cache, tables = filled(torch.float32, [300], 16)
    groups = groups_of(tables, [Span(0, 250, [0] * 20)], "ar")
    q = queries(torch.float32, 20)
    fused = attend_sdpa(q, cache, groups, layer_idx=0, scaling=0.25, window=None)
    monkeypatch.setattr("orthrus_core.attention.sdpa.FUSED_DEVICES", ())
    portable = attend_sdpa(q, cache, groups, layer_idx=0, scaling=0.25, window=None)
    torch.testing.assert_close(portable, fused, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_every_shape_and_beside_any_neighbour(dtype):
    cache, tables = filled(dtype, [600, 600], 16)
    q = queries(dtype, 1)
    for position in (3, 62, 64, 130, 255, 256, 599):
        alone = attend_sdpa(
            q,
            cache,
            groups_of(tables, [Span(0, position, [0])], "ar"),
            layer_idx=0,
            scaling=0.25,
            window=None,
        )
        for width in SHAPES.query_widths:
            for other in (2, 70, 200, 599):
                spans = [Span(1, other, [0]), Span(0, position, [0])]
                groups = groups_of(tables, spans, "ar", AttentionShapes((width,), SHAPES.tile_lengths))
                both = attend_sdpa(q.repeat(2, 1, 1), cache, groups, layer_idx=0, scaling=0.25, window=None)
                assert torch.equal(both[1], alone[0]), (position, width, other)
