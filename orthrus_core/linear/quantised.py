"""Linear layers whose weights are one byte each, with a scale for every output channel."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ByteWeights = Literal["int8", "fp8"]

BYTE_DTYPES: dict[ByteWeights, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class QuantisedLinear(nn.Linear):
    """A linear layer y = (x W^T) * scale + bias, where W (N, K) is of bytes and `scale` (N,) of float32.

    Backends of linear layers compute it; without one, W is dequantised in every forward.
    """

    scale: nn.Parameter

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> "QuantisedLinear":
        """Return what becomes of a layer.

        Args:
            dtype: of the bytes, one of BYTE_DTYPES.
        """
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.in_features, made.out_features, made.bias = layer.in_features, layer.out_features, layer.bias
        weight, scale = quantised(layer.weight.detach(), dtype)
        made.weight = nn.Parameter(weight, requires_grad=False)
        made.scale = nn.Parameter(scale, requires_grad=False)
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., N) of (..., K)."""
        return plain_product(input, self.weight, self.bias, self.scale)


def quantised(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return bytes (N, K) and scales (N,) float32: each row's largest number becomes the largest byte.

    Every step rounds as IEEE 754 says, so that machines of different make come to the same bytes.

    Args:
        weight: (N, K).
    """
    scale = weight.abs().amax(dim=1).float() / LARGEST[dtype]
    scale = torch.where(scale == 0, 1.0, scale)
    steps = weight / scale[:, None]  # in float32
    return (steps.round_() if dtype is torch.int8 else steps).to(dtype), scale


def dequantised(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (N, K) of bytes (N, K) and their scales (N,)."""
    return (weight.float() * scale[:, None]).to(dtype)


def plain_product(rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """torch's product (..., N) of rows (..., K); bytes are dequantised to the rows' dtype before."""
    return linear(rows, weight if scale is None else dequantised(weight, scale, rows.dtype), bias)
