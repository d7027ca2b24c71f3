"""The Triton kernel of linear layers. Needs triton; imported by `triton_linear` alone."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])  # one program for every number of rows
def multiply_rows(
    rows,
    weight,
    bias,
    scale,
    out,
    num_rows,
    N: tl.constexpr,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    TILE_DEPTH: tl.constexpr,
):
    """Program p computes one tile of outputs, over all of K in steps of one size; row tiles go first.

    An output's sum takes the same steps through the same instruction wherever its row stands.

    Args:
        rows: (num_rows, K), contiguous.
        weight: (N, K), contiguous; bytes widen to the rows' numbers without rounding.
        bias: (N,), or anything without HAS_BIAS.
        scale: (N,) float32 of a weight of bytes, or anything without HAS_SCALE.
        out: (num_rows, N).
    """
    num_row_tiles = tl.cdiv(num_rows, TILE_ROWS)
    row = tl.program_id(0) % num_row_tiles * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tl.program_id(0) // num_row_tiles * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    depth = tl.arange(0, TILE_DEPTH)
    row_used, column_used = row < num_rows, column < N
    row_start, column_start = rows + row.to(tl.int64) * K, weight + column.to(tl.int64) * K
    sums = tl.zeros([TILE_ROWS, TILE_COLUMNS], tl.float32)
    for first in range(0, K, TILE_DEPTH):
        inside = first + depth < K
        left = tl.load(
            row_start[:, None] + (first + depth)[None, :], mask=row_used[:, None] & inside[None, :], other=0.0
        )
        right = tl.load(
            column_start[:, None] + (first + depth)[None, :],
            mask=column_used[:, None] & inside[None, :],
            other=0.0,
        )
        right = right.to(left.dtype)
        sums = tl.dot(left, tl.trans(right), sums, input_precision="ieee")
    if HAS_SCALE:
        sums *= tl.load(scale + column, mask=column_used, other=0.0)[None, :]
    if HAS_BIAS:
        sums += tl.load(bias + column, mask=column_used, other=0.0).to(tl.float32)[None, :]
    target = out + row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=row_used[:, None] & column_used[None, :])
