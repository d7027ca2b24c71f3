"""Triton kernels of write-then-attend over the paged cache. Needs triton; imported by `triton_paged` alone.

Scores and log-sum-exps are in base 2: `scaling` or `cap` comes multiplied by log2(e). Products and sums are
not fused (`enable_fp_fusion=False`), so that a formula has the same bits wherever it stands.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1.0e30)  # finite: the difference of two of them is 0, where that of infinities is NaN


@triton.jit
def write_rows(
    k, v, keys, values, cells, k_row, k_head, v_row, v_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program t copies row t's keys and values, all heads, into its cell."""
    row = tl.program_id(0)
    cell = tl.load(cells + row).to(tl.int64)
    place = tl.arange(0, WIDTH)
    head, dim = place // DIM, place % DIM
    inside = place < HEADS * DIM
    target = cell * HEADS * DIM + place
    tl.store(keys + target, tl.load(k + row * k_row + head * k_head + dim, mask=inside), mask=inside)
    tl.store(values + target, tl.load(v + row * v_row + head * v_head + dim, mask=inside), mask=inside)


@triton.jit
def join(top, total, joined, lse, part):
    """Take one split more into a softmax over splits, in order of position.

    Args:
        top: (rows,) largest log-sum-exp so far; LOWEST before the first split.
        total: (rows,) sum of weights so far.
        joined: (rows, WIDTH) weighted sum of parts so far.
        lse: (rows,) of this split; LOWEST where a row sees nothing in it, which changes nothing.
        part: (rows, WIDTH) finite there.
    """
    new_top = tl.maximum(top, lse)
    fade, weight = tl.exp2(top - new_top), tl.exp2(lse - new_top)
    return new_top, total * fade + weight, joined * fade[:, None] + part * weight[:, None]


@triton.jit
def walk(
    top, total, out, queries, limit, position, table, keys, values, kv_head, start, stop, end, scaling, cap,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, TILE_CELLS: tl.constexpr,
    PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr, EDGE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Take the cells from `start` on into the sums, in tiles up to `stop`; cells from `end` on are not there.

    A cell that a query does not see changes none of its bits: its weight is 0, its score never the maximum.

    Args:
        EDGE: some queries do not see all of these cells, which may hold anything, and 0 x NaN is NaN: values
            that are no finite numbers count as 0, and who sees such a cell gets NaN.
    """
    dim = tl.arange(0, WIDTH)
    for first_cell in tl.range(start, stop, TILE_CELLS, num_stages=STAGES):
        cell = first_cell + tl.arange(0, TILE_CELLS)
        held = cell < end
        if PAGE_SIZE % TILE_CELLS == 0:
            page = tl.load(table + first_cell // PAGE_SIZE).to(tl.int64) + tl.zeros([TILE_CELLS], tl.int64)
        else:
            page = tl.load(table + cell // PAGE_SIZE, mask=held, other=0).to(tl.int64)
        address = ((page * PAGE_SIZE + cell % PAGE_SIZE) * HEADS + kv_head) * DIM
        address = address[:, None] + dim[None, :]
        inside = held[:, None] & (dim < DIM)[None, :]
        key = tl.load(keys + address, mask=inside, other=0.0)
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scaling
        if CAPPED:
            fade = tl.exp2(tl.abs(scores) * (-2 * LOG2_E))
            squashed = (1.0 - fade) / (1.0 + fade) * cap
            scores = tl.where(scores < 0.0, -squashed, squashed)
        value = tl.load(values + address, mask=inside, other=0.0)
        visible = cell[None, :] <= limit[:, None]
        if WINDOW > 0:
            visible &= cell[None, :] > (position - WINDOW)[:, None]
        if EDGE:
            finite = value.to(tl.float32) - value.to(tl.float32) == 0.0
            broken = tl.max(tl.where(finite, 0, 1), 1)
            scores = tl.where(broken[None, :] > 0, float("nan"), scores)
            value = tl.where(finite, value, 0.0).to(value.dtype)
        scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(weights, 1)
        out = tl.dot(weights.to(value.dtype), value, out * fade[:, None], input_precision="ieee")
        top = new_top
    return top, total, out


@triton.jit
def walk_split(
    queries, limit, position, table, keys, values, kv_head,
    start, end, first_cell, all_see_from, all_see_until, scaling, cap,
    QUERIES: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    TILE_CELLS: tl.constexpr, PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Return the log-sum-exp and the normalised output of cells `start` to `end`.

    Args:
        first_cell: the first that any query sees.
        all_see_from: the first that all queries see; they see those up to `all_see_until`.
    """
    top = tl.full([QUERIES], LOWEST, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, WIDTH], tl.float32)
    inner = start
    inner_end = start + tl.maximum(all_see_until - start, 0) // TILE_CELLS * TILE_CELLS
    inner_end = tl.where(all_see_until >= end, end, inner_end)
    if WINDOW > 0:
        inner = start + tl.cdiv(tl.maximum(all_see_from - start, 0), TILE_CELLS) * TILE_CELLS
        begin = start + tl.maximum(first_cell - start, 0) // TILE_CELLS * TILE_CELLS
        top, total, out = walk(
            top, total, out, queries, limit, position, table, keys, values, kv_head,
            begin, tl.minimum(inner, end), end, scaling, cap,
            HEADS, DIM, WIDTH, TILE_CELLS, PAGE_SIZE, WINDOW, CAPPED, True, 1,
        )  # fmt: skip
    inner_end = tl.maximum(inner, inner_end)
    top, total, out = walk(
        top, total, out, queries, limit, position, table, keys, values, kv_head,
        inner, inner_end, end, scaling, cap,
        HEADS, DIM, WIDTH, TILE_CELLS, PAGE_SIZE, WINDOW, CAPPED, False, STAGES,
    )  # fmt: skip
    top, total, out = walk(
        top, total, out, queries, limit, position, table, keys, values, kv_head,
        inner_end, end, end, scaling, cap,
        HEADS, DIM, WIDTH, TILE_CELLS, PAGE_SIZE, WINDOW, CAPPED, True, 1,
    )  # fmt: skip
    nothing = total == 0.0
    total = tl.where(nothing, 1.0, total)
    return tl.where(nothing, LOWEST, top + tl.log2(total)), out / total[:, None]


@triton.jit(do_not_specialize=["tables_row", "num_rows"])  # one program for every T
def attend_tiles(
    q, keys, values, plan, slots, limits, positions, page_tables, parts, lses, result, scaling, cap, q_row,
    q_head, tables_row, num_rows,
    HEADS: tl.constexpr, REPEATS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, TILE_CELLS: tl.constexpr, SPLIT: tl.constexpr, PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, STAGES: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Each program takes every PROGRAMS-th (item, K/V head): a tile of queries over one split, or over all.

    A tile's queries are its token rows times the REPEATS query heads of the K/V head.

    Args:
        plan: see `Tiling.plan`.
        parts: (partials, H, DIM) float32, normalised output of a row of a tile that is spread in one split.
        lses: (partials, H) float32, its log-sum-exp.
        result: (T, H, DIM), written for tiles that are walked whole.
        scaling: of scores, over the cap if there is one, else times log2(e).
        cap: times log2(e).
        WINDOW: cells of a sliding window, 0 for none.
    """
    tiles = plan + 2
    items = plan + 2 + 5 * num_rows
    num_works = tl.load(plan) * HEADS
    query = tl.arange(0, QUERIES)
    dim = tl.arange(0, WIDTH)
    for work in range(tl.program_id(0), num_works, PROGRAMS):
        kv_head = work % HEADS
        tile = tl.load(items + work // HEADS * 2)
        split = tl.load(items + work // HEADS * 2 + 1)
        first_row = tl.load(tiles + tile)
        count = tl.load(tiles + num_rows + tile)
        used = query < count * REPEATS
        row = first_row + query // REPEATS
        head = kv_head * REPEATS + query % REPEATS
        seen = used[:, None] & (dim < DIM)[None, :]
        queries = tl.load(q + (row * q_row + head * q_head)[:, None] + dim[None, :], mask=seen, other=0.0)
        limit = tl.load(limits + row, mask=used, other=-1).to(tl.int32)
        position = tl.load(positions + row, mask=used, other=0x3FFFFFFF).to(tl.int32)
        table = page_tables + tl.load(slots + first_row).to(tl.int64) * tables_row
        last_cell = tl.max(limit, 0)
        all_see_until = tl.min(tl.where(used, limit, 0x3FFFFFFF), 0) + 1
        first_cell = 0
        all_see_from = 0
        if WINDOW > 0:
            first_cell = tl.maximum(tl.min(position, 0) - WINDOW + 1, 0)
            all_see_from = tl.maximum(tl.max(tl.where(used, position, 0), 0) - WINDOW + 1, 0)
        first_split = tl.where(split < 0, first_cell // SPLIT, split)
        end_split = tl.where(split < 0, last_cell // SPLIT, split) + 1
        joined_top = tl.full([QUERIES], LOWEST, tl.float32)
        joined_total = tl.zeros([QUERIES], tl.float32)
        joined = tl.zeros([QUERIES, WIDTH], tl.float32)
        for at in tl.range(first_split, end_split, num_stages=1):
            lse, part = walk_split(
                queries, limit, position, table, keys, values, kv_head,
                at * SPLIT, tl.minimum(at * SPLIT + SPLIT, last_cell + 1),
                first_cell, all_see_from, all_see_until, scaling, cap,
                QUERIES, HEADS, DIM, WIDTH, TILE_CELLS, PAGE_SIZE, WINDOW, CAPPED, STAGES,
            )  # fmt: skip
            joined_top, joined_total, joined = join(joined_top, joined_total, joined, lse, part)
        if split >= 0:  # joined is the one part, its total 1
            partial = tl.load(tiles + 2 * num_rows + tile) + split * count + query // REPEATS
            place = partial.to(tl.int64) * (HEADS * REPEATS) + head
            tl.store(lses + place, joined_top, mask=used)
            tl.store(parts + place[:, None] * DIM + dim[None, :], joined, mask=seen)
        else:
            place = row.to(tl.int64) * (HEADS * REPEATS) + head
            whole = (joined / joined_total[:, None]).to(result.dtype.element_ty)
            tl.store(result + place[:, None] * DIM + dim[None, :], whole, mask=seen)


@triton.jit(do_not_specialize=["num_rows"])
def merge_splits(
    plan, parts, lses, limits, positions, result, num_rows,
    HEADS: tl.constexpr, REPEATS: tl.constexpr, PADDED: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, SPLIT: tl.constexpr, WINDOW: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Each program takes every PROGRAMS-th (row of a spread tile, K/V head) and joins what the row sees.

    Args:
        PADDED: power of two of at least REPEATS.
    """
    tiles = plan + 2
    merges = plan + 2 + 3 * num_rows
    repeat = tl.arange(0, PADDED)
    dim = tl.arange(0, WIDTH)
    inside = (repeat < REPEATS)[:, None] & (dim < DIM)[None, :]
    for work in range(tl.program_id(0), tl.load(plan + 1) * HEADS, PROGRAMS):
        row = tl.load(merges + work // HEADS * 2)
        tile = tl.load(merges + work // HEADS * 2 + 1)
        head = work % HEADS * REPEATS + repeat
        count = tl.load(tiles + num_rows + tile)
        partial = tl.load(tiles + 2 * num_rows + tile) + row - tl.load(tiles + tile)
        first_split = 0
        if WINDOW > 0:
            first_split = tl.maximum(tl.load(positions + row).to(tl.int32) - WINDOW + 1, 0) // SPLIT
        last_split = tl.load(limits + row).to(tl.int32) // SPLIT
        top = tl.full([PADDED], LOWEST, tl.float32)
        total = tl.zeros([PADDED], tl.float32)
        joined = tl.zeros([PADDED, WIDTH], tl.float32)
        for split in tl.range(first_split, last_split + 1):
            place = (partial + split * count).to(tl.int64) * (HEADS * REPEATS) + head
            lse = tl.load(lses + place, mask=repeat < REPEATS, other=LOWEST)
            part = tl.load(parts + place[:, None] * DIM + dim[None, :], mask=inside, other=0.0)
            top, total, joined = join(top, total, joined, lse, part)
        place = row.to(tl.int64) * (HEADS * REPEATS) + head
        whole = (joined / total[:, None]).to(result.dtype.element_ty)
        tl.store(result + place[:, None] * DIM + dim[None, :], whole, mask=inside)
