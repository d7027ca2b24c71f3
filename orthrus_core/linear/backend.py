"""Who computes linear layers: one call behind which each device has its own kernel."""

from typing import Protocol

import torch
from torch import Tensor, nn

from orthrus_core.linear.quantised import BYTE_DTYPES, QuantisedLinear, plain_product
from orthrus_core.twins import sharing


class LinearBackend(Protocol):
    """Computes the linear layers of an engine's forwards.

    Attributes:
        name: for manifests and reports.
    """

    name: str

    def takes(self, layer: nn.Linear) -> bool:
        """Whether a layer's weights are such as the kernel reads."""
        ...

    def multiply(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None
    ) -> Tensor:
        """Return (..., N) of rows (..., K), weight (N, K) and bias (N,), as `torch.nn.functional.linear`.

        Args:
            scale: (N,) float32 of a weight of bytes, see `QuantisedLinear`.
        """
        ...


class PlainLinear:
    """torch's own product, whose order of summation may depend on the number of rows."""

    name = "plain"

    def takes(self, layer: nn.Linear) -> bool:
        """None: layers stay as they are."""
        return False

    def multiply(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None
    ) -> Tensor:
        """See `LinearBackend`."""
        return plain_product(rows, weight, bias, scale)


class BackedLinear(nn.Linear):
    """A linear layer, of bytes or not, as an engine's forwards run it."""

    backend: LinearBackend

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., N) of (..., K)."""
        return self.backend.multiply(input, self.weight, self.bias, self._parameters.get("scale"))


def backed(layer: nn.Linear, backend: LinearBackend) -> BackedLinear:
    """Return a layer that shares everything with the given one but the product."""
    return sharing(layer, BackedLinear, backend=backend)


def has_plain_weights(layer: nn.Linear, *, dtype: torch.dtype, device_type: str) -> bool:
    """Whether a layer is an ordinary one: dense numbers in the usual order, on such a device.

    Args:
        dtype: that they must have, but for the bytes and scales of a quantised layer.
    """
    dtypes = {"weight": {dtype}, "bias": {dtype}}
    if type(layer) is QuantisedLinear:
        dtypes |= {"weight": set(BYTE_DTYPES.values()), "scale": {torch.float32}}
    return type(layer) in (nn.Linear, QuantisedLinear) and all(
        type(tensor) is nn.Parameter
        and tensor.is_contiguous()
        and tensor.dtype in dtypes[name]
        and tensor.device.type == device_type
        for name, tensor in layer._parameters.items()
        if tensor is not None
    )
