"""Who computes linear layers: one call behind which each device has its own kernel."""

from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import linear


class LinearBackend(Protocol):
    """Computes the linear layers of an engine's forwards.

    Attributes:
        name: for manifests and reports.
    """

    name: str

    def takes(self, layer: nn.Linear) -> bool:
        """Whether a layer's weights are such as the kernel reads."""
        ...

    def multiply(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (..., N) of rows (..., K), weight (N, K) and bias (N,), as `torch.nn.functional.linear`."""
        ...


class PlainLinear:
    """torch's own product, whose order of summation may depend on the number of rows."""

    name = "plain"

    def takes(self, layer: nn.Linear) -> bool:
        """None: layers stay as they are."""
        return False

    def multiply(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `LinearBackend`."""
        return linear(rows, weight, bias)


class BackedLinear(nn.Linear):
    """A linear layer as an engine's forwards run it."""

    backend: LinearBackend

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., N) of (..., K)."""
        return self.backend.multiply(input, self.weight, self.bias)


def backed(layer: nn.Linear, backend: LinearBackend) -> BackedLinear:
    """Return a layer that shares everything with the given one but the product."""
    twin = BackedLinear.__new__(BackedLinear)
    twin.__dict__.update(layer.__dict__, backend=backend)
    return twin


def has_plain_weights(layer: nn.Linear, *, device_type: str) -> bool:
    """Whether a layer is an ordinary one: dense numbers of one dtype in the usual order, on such a device."""
    tensors = [tensor for tensor in (layer.weight, layer.bias) if tensor is not None]
    return type(layer) is nn.Linear and all(
        type(tensor) is nn.Parameter
        and tensor.is_contiguous()
        and tensor.dtype == layer.weight.dtype
        and tensor.device.type == device_type
        for tensor in tensors
    )
