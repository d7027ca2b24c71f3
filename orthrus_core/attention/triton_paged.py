"""Write-then-attend over the paged cache by Triton kernels with splits of fixed length.

A row's sums are taken in an order that its own position decides: cells in tiles of fixed length, tiles inside
a split of fixed length one after the other, splits merged in order. So its bits depend neither on the other
rows of the forward nor on how full the card is, and yet a few long sequences spread over all of it.
"""

import importlib.util
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.attention.plans import PlanBuffers
from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.tiling import Tiling
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import KVCache
from orthrus_core.errors import ConfigError

MIN_QUERIES = 32  # queries of a tile: 8 rows of a model with 4 query heads per K/V head
MAX_QUERIES = 128
SPLIT_LENGTH = 256
TILE_BYTES = 16384  # keys of a tile
PROGRAMS_PER_PROCESSOR = 2  # registers let so many in (Hopper, Dh 128: 196 a thread)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def has_triton() -> bool:
    """Whether triton is installed."""
    return importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class KernelSizes:
    """Compile-time sizes, fixed per engine: no tuning by shape, which would change bits.

    Attributes:
        queries: rows of the score matrix of a tile, a power of two >= 16.
        tile_cells: cells of a key tile, a power of two >= 16.
        split_length: cells of a split, a multiple of `tile_cells`.
        programs: programs of a launch; changes no bits.
        num_warps: of each program.
        num_stages: depth of the software pipeline.
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
    row_bytes = _power_of_two(spec.head_dim) * spec.dtype.itemsize
    processors = 1
    if spec.device.type == "cuda":
        processors = torch.cuda.get_device_properties(spec.device).multi_processor_count
    return KernelSizes(
        queries=max(MIN_QUERIES, _power_of_two(spec.repeats)),
        tile_cells=min(max(TILE_BYTES // row_bytes, 16), 128),
        split_length=SPLIT_LENGTH,
        programs=processors * PROGRAMS_PER_PROCESSOR,
    )


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
        )
        self._spec = spec
        self._buffers = PlanBuffers(spec.device)

    def new_cache(self, *, num_layers: int, num_pages: int, page_size: int, device: torch.device) -> KVCache:
        """Allocate (num_pages, page_size, Hkv, Dh) for keys and for values."""
        return self._spec.new_cache(
            num_layers=num_layers, num_pages=num_pages, page_size=page_size, device=device
        )

    def arrange(self, spans: SpanRows, num_rows: int, device: torch.device) -> Tensor:
        """Plan one forward of T rows; the tensor is the same one for every forward of T rows of a view."""
        plan = self.tiling.plan(spans.counts, spans.limits, num_rows)
        return self._buffers.put(plan, spans, num_rows, size=self.tiling.plan_size(num_rows))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: AttentionLayer,
        *,
        keys: Tensor,
        values: Tensor,
        packed: Tensor,
        page_tables: Tensor,
        arrangement: Tensor,
    ) -> Tensor:
        """See `AttentionBackend.attend`; q, k and v may have any strides over rows and heads."""
        assert layer.softcap is None, "choose_backend refuses models with a softcap"
        sizes = self.sizes
        return write_then_attend(
            q,
            k,
            v,
            keys,
            values,
            packed,
            page_tables,
            arrangement,
            layer.scaling,
            layer.sliding_window or 0,
            self.tiling.max_splits,
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
    window: int,
    max_splits: int,
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
    width = _power_of_two(Dh)
    kernels.write_rows[(T,)](
        k, v, keys, values, cells, *_strides(k), *_strides(v),
        HEADS=Hkv, DIM=Dh, WIDTH=_power_of_two(Hkv * Dh),
    )  # fmt: skip
    parts = torch.empty(T, H, max_splits, Dh, dtype=torch.float32, device=q.device)
    lses = torch.empty(T, H, max_splits, dtype=torch.float32, device=q.device)
    kernels.attend_splits[(programs,)](
        q, keys, values, plan, slots, limits, positions, page_tables, parts, lses,
        scaling * math.log2(math.e), *_strides(q), page_tables.stride(0), T, max_splits,
        HEADS=Hkv, REPEATS=H // Hkv, DIM=Dh, WIDTH=width, QUERIES=queries, TILE_CELLS=tile_cells,
        SPLIT=split_length, PAGE_SIZE=page_size, WINDOW=window, PROGRAMS=programs,
        num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip
    out = torch.empty(T, H, Dh, dtype=q.dtype, device=q.device)
    kernels.merge_splits[(T, H)](
        parts, lses, limits, positions, out, max_splits,
        DIM=Dh, WIDTH=width, SPLIT=split_length, WINDOW=window, num_warps=1,
    )  # fmt: skip
    return out


@write_then_attend.register_fake
def _shape_of_output(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


def _check(spec: AttentionSpec) -> None:
    if not 16 <= spec.head_dim <= 256:
        raise ConfigError(f"attention kernel: head_dim must be 16 to 256, got {spec.head_dim}")
    if spec.repeats > MAX_QUERIES:
        raise ConfigError(
            f"attention kernel: query heads per K/V head must be <= {MAX_QUERIES}, got {spec.repeats}"
        )
    if spec.dtype not in DTYPES:
        raise ConfigError(f"attention kernel: dtype must be float32, bfloat16 or float16, got {spec.dtype}")


def _strides(x: Tensor) -> tuple[int, int]:
    """Return the strides of rows and heads; elements of a head must be neighbours."""
    assert x.stride(2) == 1, f"head elements {x.stride(2)} apart"
    return x.stride(0), x.stride(1)


def _power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least `size`, and 16 at least."""
    return max(16, 1 << (size - 1).bit_length())
