"""Where the Triton kernels run in tests: on a CUDA device, or on the CPU through Triton's interpreter."""

import os

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels' module is imported


@pytest.fixture
def kernel_device() -> torch.device:
    """The device to try the kernels on; skips where triton is not installed."""
    pytest.importorskip("triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def ordered_products(monkeypatch):
    """Let the interpreter multiply each row in the same order.

    It multiplies through BLAS, where a row's bits depend on its place among the rows; a tensor core's do not.
    """

    def product(a: np.ndarray, b: np.ndarray, dtype=None) -> np.ndarray:
        return (a.astype(dtype)[:, :, None] * b.astype(dtype)[None]).sum(axis=1)

    monkeypatch.setattr(np, "matmul", product)
