"""Linear layers on CUDA through a Triton kernel: tiles of one size whatever the number of rows."""

import logging

import torch
from torch import Tensor, nn

from orthrus_core.errors import reason_of
from orthrus_core.linear.backend import has_plain_weights
from orthrus_core.linear.quantised import plain_product, quantised
from orthrus_core.native import KernelError, has_triton

logger = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE_ROWS = 64  # of one matrix instruction on Hopper; few rows are a matter of reading weights, not of sums
TILE_COLUMNS = {True: 64, False: 32}  # by whether a layer is wide: few columns must still fill the card
WIDE = 8192
TILE_DEPTH = {2: 128, 4: 32}  # by bytes of a number
NUM_WARPS, NUM_STAGES = 4, 3
TRIAL_SIZES = (70, 200, 96)  # rows, K, N: no whole tiles
TRIAL_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}  # of sums of about 14


class TritonLinear:
    """Calls the kernel; see `LinearBackend`."""

    name = "triton"

    def __init__(self, dtype: torch.dtype, device: str = "cuda"):
        """Try the kernel on the device.

        Raises:
            KernelError: it cannot be had, or gives wrong numbers.
        """
        if dtype not in DTYPES:
            raise KernelError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
        if not has_triton():
            raise KernelError("triton is not installed, run: pip install triton")
        self._dtype, self._device = dtype, torch.device(device)
        self._try(dtype)
        self._reads = {dtype: True}  # weights of these, as trials say

    def takes(self, layer: nn.Linear) -> bool:
        """See `LinearBackend`."""
        if not has_plain_weights(layer, dtype=self._dtype, device_type=self._device.type):
            return False
        kind = layer.weight.dtype
        if kind not in self._reads:
            try:
                self._try(kind)
                self._reads[kind] = True
            except KernelError as error:  # a card before Hopper has no float8, say
                self._reads[kind] = False
                logger.warning(
                    "weights in %s are dequantised in every forward, which is slow: %s", kind, error
                )
        return self._reads[kind]

    def multiply(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None
    ) -> Tensor:
        """See `LinearBackend`."""
        if rows.dtype != (weight.dtype if scale is None else self._dtype):
            return plain_product(rows, weight, bias, scale)
        return multiply_rows(rows, weight, bias, scale)

    def _try(self, weights: torch.dtype) -> None:
        """Raise KernelError if the kernel refuses weights of a dtype, or gives wrong numbers."""
        try:
            error = self._trial_error(weights)
        except Exception as refusal:  # whatever the library below raises where it cannot run
            raise KernelError(f"triton: {reason_of(refusal)}") from refusal
        if not error <= TRIAL_TOLERANCE[self._dtype]:
            raise KernelError(f"triton: off by {error:.3g} in the trial product in {weights}")

    def _trial_error(self, weights: torch.dtype) -> float:
        """Return the largest difference from torch's product, as a share of its typical size."""
        M, K, N = TRIAL_SIZES
        generator = torch.Generator().manual_seed(0)
        exact = [torch.randn(*size, generator=generator) for size in ((M, K), (N, K), (N,))]
        rows, weight, bias = (x.to(self._dtype).to(self._device) for x in exact)
        weight, *scale = (weight,) if weights is self._dtype else quantised(weight, weights)
        expected = plain_product(rows.float(), weight.float(), bias.float(), *scale)
        return float((multiply_rows(rows, weight, bias, *scale).float() - expected).abs().max() / K**0.5)


@torch.library.custom_op("orthrus::multiply_rows", mutates_args=())
def multiply_rows(rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """`TritonLinear.multiply` as one operator, opaque to torch.compile."""
    from orthrus_core.linear import triton_kernels as kernels  # triton is optional

    (N, K), rows = weight.shape, rows.contiguous()
    M, tile_columns = rows.numel() // K, TILE_COLUMNS[N >= WIDE]
    out = rows.new_empty(*rows.shape[:-1], N)
    num_programs = -(-M // TILE_ROWS) * -(-N // tile_columns)
    if num_programs:
        kernels.multiply_rows[(num_programs,)](
            rows, weight, rows if bias is None else bias, rows if scale is None else scale, out, M,
            N=N, K=K, HAS_BIAS=bias is not None, HAS_SCALE=scale is not None,
            TILE_ROWS=TILE_ROWS, TILE_COLUMNS=tile_columns, TILE_DEPTH=TILE_DEPTH[rows.element_size()],
            num_warps=NUM_WARPS, num_stages=NUM_STAGES,
        )  # fmt: skip
    return out


@multiply_rows.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], len(weight))
