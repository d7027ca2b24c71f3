"""What the Triton kernels need in tests without a CUDA device."""

import os
import subprocess
import sys
from collections.abc import Callable

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


@pytest.fixture
def output_for_hopper(tmp_path) -> Callable[[str], str]:
    """What a program that compiles kernels prints, in a process without the interpreter; needs triton."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }

    def run(program: str) -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    return run
