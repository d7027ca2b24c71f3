"""Triton kernels of write-then-attend over the paged cache. Needs triton; imported by `triton_paged` alone.

Scores and log-sum-exps are in base 2: `scaling` comes multiplied by log2(e).
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)  # finite: the difference of two of them is 0, where that of infinities is NaN


@triton.jit
def write_rows(
    k,
    v,
    keys,
    values,
    cells,
    k_row,
    k_head,
    v_row,
    v_head,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Program t copies row t's keys and values, all heads, into its cell."""
    row = tl.program_id(0)
    cell = tl.load(cells + row).to(tl.int64)
    place = tl.arange(0, WIDTH)
    head, dim = place // DIM, place % DIM
    inside = place < HEADS * DIM
    target = cell * HEADS * DIM + place
    tl.store(keys + target, tl.load(k + row * k_row + head * k_head + dim, mask=inside), mask=inside)
    tl.store(values + target, tl.load(v + row * v_row + head * v_head + dim, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["tables_row", "num_rows", "max_splits"])  # one program for every T
def attend_splits(
    q,
    keys,
    values,
    plan,
    slots,
    limits,
    positions,
    page_tables,
    parts,
    lses,
    scaling,
    q_row,
    q_head,
    tables_row,
    num_rows,
    max_splits,
    HEADS: tl.constexpr,
    REPEATS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE_CELLS: tl.constexpr,
    SPLIT: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Each program takes every PROGRAMS-th (item, K/V head): one tile of queries over one split of cells.

    A tile's queries are its token rows times the REPEATS query heads of the K/V head. A cell that a query
    does not see changes none of its bits: its weight is 0 and its score never the maximum.

    Args:
        plan: see `Tiling.plan`.
        parts: (T, H, max_splits, DIM) float32, normalised output of each split.
        lses: (T, H, max_splits) float32, log-sum-exp of each split.
        WINDOW: cells of a sliding window, 0 for none.
    """
    lists = plan + 1
    num_works = tl.load(plan) * HEADS
    query = tl.arange(0, QUERIES)
    dim = tl.arange(0, WIDTH)
    cell_offset = tl.arange(0, TILE_CELLS)
    for work in range(tl.program_id(0), num_works, PROGRAMS):
        item = work // HEADS
        kv_head = work % HEADS
        tile = tl.load(lists + 2 * num_rows + 2 * item)
        split = tl.load(lists + 2 * num_rows + 2 * item + 1)
        first_row = tl.load(lists + tile)
        used = query < tl.load(lists + num_rows + tile) * REPEATS
        row = first_row + query // REPEATS
        head = kv_head * REPEATS + query % REPEATS
        seen = used[:, None] & (dim < DIM)[None, :]
        queries = tl.load(q + (row * q_row + head * q_head)[:, None] + dim[None, :], mask=seen, other=0.0)
        limit = tl.load(limits + row, mask=used, other=-1).to(tl.int32)
        position = tl.load(positions + row, mask=used, other=0x3FFFFFFF).to(tl.int32)
        table = page_tables + tl.load(slots + first_row).to(tl.int64) * tables_row
        start = split * SPLIT
        end = tl.minimum(start + SPLIT, tl.max(limit, 0) + 1)
        if WINDOW > 0:
            unseen = tl.maximum(tl.min(position, 0) - WINDOW + 1 - start, 0)
            start += unseen // TILE_CELLS * TILE_CELLS
        top = tl.full([QUERIES], LOWEST, tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        out = tl.zeros([QUERIES, WIDTH], tl.float32)
        for first_cell in range(start, end, TILE_CELLS):
            cell = first_cell + cell_offset
            held = cell < end
            page = tl.load(table + cell // PAGE_SIZE, mask=held, other=0).to(tl.int64)
            address = ((page * PAGE_SIZE + cell % PAGE_SIZE) * HEADS + kv_head) * DIM
            address = address[:, None] + dim[None, :]
            inside = held[:, None] & (dim < DIM)[None, :]
            key = tl.load(keys + address, mask=inside, other=0.0)
            scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling
            visible = cell[None, :] <= limit[:, None]
            if WINDOW > 0:
                visible &= cell[None, :] > (position - WINDOW)[:, None]
            scores = tl.where(visible, scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - new_top[:, None])
            fade = tl.exp2(top - new_top)
            total = total * fade + tl.sum(weights, 1)
            value = tl.load(values + address, mask=inside, other=0.0)
            out = out * fade[:, None]
            out += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            top = new_top
        total = tl.where(total > 0.0, total, 1.0)  # of a query that sees nothing here; nobody reads it
        place = (row.to(tl.int64) * (HEADS * REPEATS) + head) * max_splits + split
        tl.store(lses + place, top + tl.log2(total), mask=used)
        tl.store(parts + place[:, None] * DIM + dim[None, :], out / total[:, None], mask=seen)


@triton.jit(do_not_specialize=["max_splits"])
def merge_splits(
    parts,
    lses,
    limits,
    positions,
    out,
    max_splits,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Program (t, h) joins the splits that row t sees, in order of position; out: (T, H, DIM).

    A row left over, whose limit is below 0, gets zeros.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    heads = tl.num_programs(1)
    place = row.to(tl.int64) * heads + head
    dim = tl.arange(0, WIDTH)
    inside = dim < DIM
    first = 0
    if WINDOW > 0:
        first_cell = tl.load(positions + row).to(tl.int32) - WINDOW + 1
        first = tl.maximum(first_cell, 0) // SPLIT
    limit = tl.load(limits + row).to(tl.int32)
    last = limit // SPLIT
    top = tl.load(lses + place * max_splits + first)
    total = 1.0
    written = dim < tl.where(limit >= 0, DIM, 0)
    joined = tl.load(parts + (place * max_splits + first) * DIM + dim, mask=written, other=0.0)
    for split in range(first + 1, last + 1):
        lse = tl.load(lses + place * max_splits + split)
        part = tl.load(parts + (place * max_splits + split) * DIM + dim, mask=inside)
        new_top = tl.maximum(top, lse)
        fade, weight = tl.exp2(top - new_top), tl.exp2(lse - new_top)
        joined = joined * fade + part * weight
        total = total * fade + weight
        top = new_top
    tl.store(out + place * DIM + dim, (joined / total).to(out.dtype.element_ty), mask=inside)
