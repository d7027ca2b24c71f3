"""Activations of MLPs on CPUs, whose bits do not depend on where in a forward a row is."""

import functools
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from orthrus_core.native import INT, LONG, POINTER, KernelError, build_library, load_function
from orthrus_core.twins import sharing

SOURCE = Path(__file__).with_name("activation.cpp")
DTYPES = (torch.float32, torch.bfloat16)
NAMES = (("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"))  # by kind, as the kernel counts
SERIAL = 32768  # numbers that one thread takes alone

logger = logging.getLogger(__name__)


class RowWiseActivation(nn.Module):
    """An activation through the compiled kernel `activation.cpp`, with the hooks of the model's own.

    In a compiled forward it is torch's own: what Inductor makes of it takes all numbers alike.
    """

    _own: nn.Module
    _kind: int

    def forward(self, rows: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        if torch.compiler.is_compiling() or rows.dtype not in DTYPES:
            return self._own.forward(rows)
        rows, count = rows.contiguous(), rows.numel()
        out = torch.empty_like(rows)
        num_threads = torch.get_num_threads() if count > SERIAL else 1
        _kernel()(
            *(rows.data_ptr(), out.data_ptr(), count, rows.dtype == torch.bfloat16, self._kind, num_threads)
        )
        return out


def row_wise(module: nn.Module) -> nn.Module:
    """Return an activation that computes numbers alike, if the module is one that does not; else itself."""
    kind = _kinds().get(type(module))
    if kind is None:
        return module
    try:
        _kernel()
    except KernelError as error:
        logger.info("activation=torch because %s", error)
        return module
    return sharing(module, RowWiseActivation, _kind=kind, _modules={"_own": module})


@functools.cache
def _kinds() -> dict[type, int]:
    return {type(ACT2FN[name]): kind for kind, names in enumerate(NAMES) for name in names}


@functools.cache
def _kernel():
    arguments = (POINTER, POINTER, LONG, INT, INT, INT)
    return load_function(build_library("activation", SOURCE), "activate", arguments)
