"""Reading logits out on CPUs through the compiled kernel `readout.cpp`."""

import functools
import logging
from pathlib import Path

import torch
from torch import Tensor

from orthrus_core.native import INT, LONG, POINTER, KernelError, build_library, load_function

SOURCE = Path(__file__).with_name("readout.cpp")
DTYPES = (torch.float32, torch.bfloat16)
PROTOTYPE = (POINTER, LONG, LONG, LONG, INT, INT, POINTER, POINTER)

logger = logging.getLogger(__name__)


@torch.compiler.assume_constant_result
def readout_kernel() -> str | None:
    """Return the path of the kernel, compiled at first use; where it cannot be had, None and a line."""
    return _build()


@functools.cache
def _build() -> str | None:
    try:
        library = build_library("readout", SOURCE)
        _function(library)
    except KernelError as error:
        logger.info("readout=plain because %s", error)
        return None
    return library


@functools.cache
def _function(path: str):
    return load_function(path, "read_out", PROTOTYPE)


def read_rows(logits: Tensor, kernel: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read CPU logits (R, V) in one of `DTYPES` out.

    Returns:
        ids, gaps, log-probabilities and logsumexp, as `Readout` has them; of a broken row any id and gap.
    """
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    R, V = logits.shape
    ids, figures = torch.empty(R, dtype=torch.int64), torch.empty(3, R)
    _function(kernel)(
        *(logits.data_ptr(), logits.stride(0), R, V, logits.dtype == torch.bfloat16),
        *(torch.get_num_threads(), ids.data_ptr(), figures.data_ptr()),
    )
    gaps, logprobs, logsumexps = figures.unbind()
    return ids, gaps, logprobs, logsumexps


torch.library.define("orthrus::read_rows", "(Tensor logits, str kernel) -> (Tensor, Tensor, Tensor, Tensor)")
torch.library.impl(
    "orthrus::read_rows", "cpu", lambda logits, kernel: tuple(x.clone() for x in read_rows(logits, kernel))
)


@torch.library.register_fake("orthrus::read_rows")
def _(logits: Tensor, kernel: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    one = logits.new_empty(logits.shape[0], dtype=torch.float32)  # len() would fix R
    return one.to(torch.int64), one, one.clone(), one.clone()
