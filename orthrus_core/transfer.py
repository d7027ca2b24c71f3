"""Arrays on their way to the device, which nobody waits for, and back."""

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


class HostCopy:
    """A tensor on its way to the host; on a CPU it is there already."""

    def __init__(self, tensor: Tensor):
        """Queue the copy, behind what the device has to do already."""
        self._host = tensor.to("cpu", non_blocking=True)  # from CUDA into pinned memory
        self._done = torch.cuda.Event() if tensor.is_cuda else None
        if self._done is not None:
            self._done.record()

    def wait(self) -> np.ndarray:
        """Return it, once it has come; nothing that was queued later is waited for."""
        if self._done is not None:
            self._done.synchronize()
        return self._host.numpy()
