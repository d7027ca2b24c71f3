"""Which products an engine may choose among on its device."""

import logging
from collections.abc import Callable

import torch

from orthrus_core.errors import ConfigError
from orthrus_core.linear.backend import LinearBackend, PlainLinear
from orthrus_core.linear.native import NativeLinear
from orthrus_core.linear.triton_linear import TritonLinear
from orthrus_core.native import KernelError

logger = logging.getLogger(__name__)

KERNELS: dict[str, tuple[str, Callable[[torch.dtype], LinearBackend]]] = {
    "cpu": ("native", NativeLinear),
    "cuda": ("triton", TritonLinear),
}


def linear_backends(asked: str, *, dtype: torch.dtype, device_type: str) -> tuple[LinearBackend, ...]:
    """Return the backends to choose among, those first whose bits do not depend on the number of rows.

    Args:
        asked: auto, or the name of one.
        dtype: of the model; so is `device_type`.
    Raises:
        ConfigError: the one asked for cannot be had.
    """
    if device_type == "cuda":  # of the whole process; partial sums in half precision depend on T
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    plain = PlainLinear()
    if asked == plain.name:
        return (plain,)
    name, new = KERNELS.get(device_type, (plain.name, None))
    if asked not in ("auto", name):
        raise ConfigError(
            f"linear: {asked} does not run on {device_type} devices: choose {name}, or auto for the fastest"
        )
    if new is None:
        return (plain,)
    try:
        backend = new(dtype)
    except KernelError as error:
        if asked != "auto":
            raise ConfigError(f"linear: {asked} cannot be had here: {error}; choose auto or plain") from error
        logger.info("linear=plain because %s", error)
        return (plain,)
    return (backend, plain) if asked == "auto" else (backend,)
