"""What the Triton kernels need in tests without a CUDA device."""

import numpy as np
import pytest


@pytest.fixture
def ordered_products(monkeypatch):
    """Let Triton's interpreter multiply each row in the same order.

    It multiplies through BLAS, where a row's bits depend on its place among the rows; a tensor core's do not.
    """

    def product(a: np.ndarray, b: np.ndarray, dtype=None) -> np.ndarray:
        return (a.astype(dtype)[:, :, None] * b.astype(dtype)[None]).sum(axis=1)

    monkeypatch.setattr(np, "matmul", product)
