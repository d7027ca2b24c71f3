"""Write-then-attend over the paged cache by Triton kernels with splits of fixed length.

A row's sums are taken in an order that its own position decides: cells in tiles of fixed length, tiles inside
a split of fixed length one after the other, splits merged in order. Tiles have one shape, set by the model
alone: whatever the block size, every row goes through the same instructions, and a row of a matrix product
knows no other. So a row's bits depend neither on the other rows of the forward nor on how full the card is,
and yet a few long sequences spread over all of it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from orthrus_core.attention.backend import LayerAttend
from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.tiling import Tiling
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import KVCache
from orthrus_core.errors import ConfigError
from orthrus_core.transfer import stage

ROWS_PER_TILE = 16  # token rows, where so many times the query heads of a K/V head are not too many queries
MAX_REPEATS = 128
SPLIT_LENGTH = 256
PARTIAL_BYTES = 2**27  # of partial results of one layer at most
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TableSizes(NamedTuple):
    """Sizes for head sizes up to one; `make kernel-report` prints the registers and memory that they take."""

    least_queries: int
    most_queries: int
    tile_cells: int
    num_warps: int  # twice as many for most_queries
    num_stages: int
    programs_per_processor: int


HALF_SIZES = {
    64: TableSizes(64, 128, 64, 4, 5, 2),
    128: TableSizes(64, 128, 32, 4, 5, 2),
    256: TableSizes(32, 32, 32, 8, 5, 1),
}
FLOAT32_SIZES = {  # without tensor cores all operands are in registers
    64: TableSizes(16, 16, 32, 4, 3, 2),
    128: TableSizes(16, 16, 16, 8, 3, 1),
    256: TableSizes(16, 16, 16, 8, 3, 1),
}


@dataclass(frozen=True)
class KernelSizes:
    """Compile-time sizes, fixed per engine: no tuning by shape, which would change bits.

    Attributes:
        queries: rows of the score matrix of a tile, a power of two >= 16.
        tile_cells: cells of a key tile, a power of two >= 16.
        split_length: cells of a split, a multiple of `tile_cells`.
        programs: programs of a launch; changes no bits.
        num_warps: of each program.
        num_stages: depth of the software pipeline; changes no bits.
    """

    queries: int
    tile_cells: int
    split_length: int
    programs: int
    num_warps: int = 4
    num_stages: int = 3

    def __post_init__(self) -> None:
        for name in ("queries", "tile_cells"):
            size = getattr(self, name)
            if size < 16 or size & (size - 1):
                raise ConfigError(f"attention kernel: {name} must be a power of two >= 16, got {size}")
        if self.split_length % self.tile_cells:
            raise ConfigError(
                f"attention kernel: split_length must be a multiple of tile_cells ({self.tile_cells}), "
                f"got {self.split_length}"
            )


def default_sizes(spec: AttentionSpec) -> KernelSizes:
    """Return the sizes for a model on a device."""
    width = power_of_two(spec.head_dim)
    table = FLOAT32_SIZES if spec.dtype == torch.float32 else HALF_SIZES
    sizes = next(sizes for most, sizes in table.items() if width <= most)
    queries = power_of_two(ROWS_PER_TILE * spec.repeats, least=sizes.least_queries)
    queries = power_of_two(spec.repeats, least=min(queries, sizes.most_queries))
    processors = 1
    if spec.device.type == "cuda":
        processors = torch.cuda.get_device_properties(spec.device).multi_processor_count
    return KernelSizes(
        queries=queries,
        tile_cells=sizes.tile_cells,
        split_length=SPLIT_LENGTH,
        programs=processors * sizes.programs_per_processor,
        num_warps=sizes.num_warps * (2 if queries > sizes.least_queries else 1),
        num_stages=sizes.num_stages,
    )


def max_partials(spec: AttentionSpec) -> int:
    """Return how many partial results, of one row and one split each, `PARTIAL_BYTES` hold."""
    return PARTIAL_BYTES // _partial_bytes(spec)


def partial_bytes(spec: AttentionSpec, token_budget: int) -> int:
    """Return the bytes of partial results of a forward of T rows, for a memory plan; layers share them."""
    max_splits = -(-spec.max_context // SPLIT_LENGTH)
    return min(token_budget * max_splits, max_partials(spec)) * _partial_bytes(spec)


class TritonBackend:
    """Attention of an engine's forwards; K/V pages are (pages, page_size, Hkv, Dh).

    Attributes:
        name: for manifests.
        has_static_shapes: see `AttentionBackend`.
        tiling: how forwards are cut into work.
        sizes: the kernel's compile-time sizes.
    """

    name = "triton"
    has_static_shapes = True

    def __init__(self, spec: AttentionSpec, sizes: KernelSizes | None = None):
        """Choose sizes for a model, the default ones unless given.

        Raises:
            ConfigError: the kernels do not cover this head size, head count or dtype.
        """
        _check(spec)
        self.sizes = sizes or default_sizes(spec)
        self.tiling = Tiling(
            rows_per_tile=self.sizes.queries // spec.repeats,
            split_length=self.sizes.split_length,
            max_context=spec.max_context,
            max_partials=max_partials(spec),
            programs_per_head=self.sizes.programs / spec.num_kv_heads,
        )
        self._spec = spec
        self._plans: dict[tuple[bool, int], Tensor] = {}  # by view and number of rows

    def new_cache(self, *, num_layers: int, num_pages: int) -> KVCache:
        """Allocate (num_pages, page_size, Hkv, Dh) for keys and for values."""
        return self._spec.new_cache(num_layers=num_layers, num_pages=num_pages)

    def arrange(self, spans: SpanRows, num_rows: int) -> Tensor:
        """Plan one forward of T rows.

        The tensor is the same one, at an address that CUDA graphs can rely on, for every forward of T rows of
        a view, and as long as their longest plan.
        """
        plan, device, key = self.tiling.plan(spans, num_rows), self._spec.device, (spans.causal, num_rows)
        if key not in self._plans:
            size = self.tiling.plan_size(num_rows)
            self._plans[key] = torch.zeros(size, dtype=torch.int32, device=device)
        self._plans[key][: len(plan)].copy_(stage(plan, device), non_blocking=True)
        return self._plans[key]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: AttentionLayer, at: LayerAttend) -> Tensor:
        """See `AttentionBackend.attend`; q, k and v may have any strides over rows and heads."""
        sizes, T = self.sizes, q.shape[0]
        return write_then_attend(
            q,
            k,
            v,
            at.keys,
            at.values,
            at.packed,
            at.page_tables,
            at.arrangement,
            layer.scaling,
            layer.softcap or 0.0,
            layer.sliding_window or 0,
            self.tiling.num_partials(T),
            [sizes.queries, sizes.tile_cells, sizes.split_length, sizes.programs],
            [sizes.num_warps, sizes.num_stages],
        )


@torch.library.custom_op("orthrus::write_then_attend", mutates_args=("keys", "values"))
def write_then_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    packed: Tensor,
    page_tables: Tensor,
    plan: Tensor,
    scaling: float,
    softcap: float,
    window: int,
    num_partials: int,
    sizes: list[int],
    launch: list[int],
) -> Tensor:
    """`TritonBackend.attend` as one operator, opaque to torch.compile; lists as in `KernelSizes`."""
    from orthrus_core.attention import triton_kernels as kernels  # triton is optional

    T, H, Dh = q.shape
    _, cells, slots, limits, positions = packed.unbind(0)
    page_size, Hkv = keys.shape[1:3]
    queries, tile_cells, split_length, programs = sizes
    num_warps, num_stages = launch
    model = {"HEADS": Hkv, "REPEATS": H // Hkv, "DIM": Dh, "WIDTH": power_of_two(Dh), "WINDOW": window}
    shared = model | {"SPLIT": split_length, "PROGRAMS": programs, "enable_fp_fusion": False}
    kernels.write_rows[(T,)](
        k, v, keys, values, cells, *_strides(k), *_strides(v),
        HEADS=Hkv, DIM=Dh, WIDTH=power_of_two(Hkv * Dh),
    )  # fmt: skip
    parts = torch.empty(num_partials, H, Dh, dtype=torch.float32, device=q.device)
    lses = torch.empty(num_partials, H, dtype=torch.float32, device=q.device)
    out = torch.zeros(T, H, Dh, dtype=q.dtype, device=q.device)
    kernels.attend_tiles[(programs,)](
        q, keys, values, plan, slots, limits, positions, page_tables, parts, lses, out,
        *_scales(scaling, softcap), *_strides(q), page_tables.stride(0), T,
        QUERIES=queries, TILE_CELLS=tile_cells, PAGE_SIZE=page_size, CAPPED=softcap > 0, STAGES=num_stages,
        num_warps=num_warps, **shared,
    )  # fmt: skip
    kernels.merge_splits[(programs,)](
        plan, parts, lses, limits, positions, out, T,
        PADDED=power_of_two(H // Hkv, least=1), num_warps=4, **shared,
    )  # fmt: skip
    return out


@write_then_attend.register_fake
def _shape_of_output(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


def _check(spec: AttentionSpec) -> None:
    if not 16 <= spec.head_dim <= 256:
        raise ConfigError(f"attention kernel: head_dim must be 16 to 256, got {spec.head_dim}")
    if spec.repeats > MAX_REPEATS:
        raise ConfigError(
            f"attention kernel: query heads per K/V head must be <= {MAX_REPEATS}, got {spec.repeats}"
        )
    if spec.dtype not in DTYPES:
        raise ConfigError(f"attention kernel: dtype must be float32, bfloat16 or float16, got {spec.dtype}")


def _strides(x: Tensor) -> tuple[int, int]:
    """Return the strides of rows and heads; elements of a head must be neighbours."""
    assert x.stride(2) == 1, f"head elements {x.stride(2)} apart"
    return x.stride(0), x.stride(1)


def _scales(scaling: float, softcap: float) -> tuple[float, float]:
    """Return the kernel's `scaling` and `cap`."""
    return (scaling / softcap, softcap * math.log2(math.e)) if softcap else (scaling * math.log2(math.e), 0.0)


def _partial_bytes(spec: AttentionSpec) -> int:
    return spec.num_heads * (spec.head_dim + 1) * 4


def power_of_two(size: int, least: int = 16) -> int:
    """Return the smallest power of two that is at least `size`, and `least` at least."""
    return max(least, 1 << (size - 1).bit_length())
