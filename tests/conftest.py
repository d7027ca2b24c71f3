"""Settings for all tests: one thread per forward, so that two cores can run two things at once."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
