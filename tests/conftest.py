"""Settings for all tests: one thread per forward, so that two cores can run two things at once."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where Triton kernels run: on CUDA, or on the CPU through Triton's interpreter; skips without triton."""
    pytest.importorskip("triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
