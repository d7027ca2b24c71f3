"""Triton kernels through the interpreter where there is no CUDA device."""

from tests.orthrus_core.attention.conftest import kernel_device

__all__ = ["kernel_device"]
