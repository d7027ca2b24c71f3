"""Host arrays on their way to the device, which nobody waits for."""

import numpy as np
import torch
from torch import Tensor


def stage(array: np.ndarray, device: torch.device) -> Tensor:
    """Return host memory to copy to the device from: on CUDA a pinned copy, elsewhere the array itself.

    PyTorch gives pinned memory out again only when the copies from it are done, so the array may change and
    the tensor may go as soon as the copy is queued.
    """
    host = torch.from_numpy(array)
    return host.pin_memory() if device.type == "cuda" else host


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of the array on the device, queued and not waited for; on a CPU the array itself."""
    return stage(array, device).to(device, non_blocking=True)
