"""Which attention runs: the fastest kernel that device and model can have, else the plain one."""

import functools
import logging
from dataclasses import replace
from typing import Literal

import torch

from orthrus_core.attention.backend import AttentionBackend
from orthrus_core.attention.kernel import KernelShape, build_kernel
from orthrus_core.attention.native import NativeAttention
from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import TRIAL_CELLS, TRIAL_TOLERANCE, keeps_bits, trial_error
from orthrus_core.attention.triton_paged import TritonBackend
from orthrus_core.errors import ConfigError, reason_of
from orthrus_core.native import KernelError, has_triton

logger = logging.getLogger(__name__)

Choice = Literal["auto", "plain", "native", "triton"]
KERNELS: dict[str, Choice] = {"cpu": "native", "cuda": "triton"}


def choose_backend(spec: AttentionSpec, wanted: Choice = "auto") -> AttentionBackend:
    """Return the fastest backend that this device, model and machine can have, or the one that is wanted.

    Where `auto` is the plain one, a warning says so: it is as exact, and slower by far. On CUDA it is so slow
    that nobody gets it unasked.

    Raises:
        ConfigError: the wanted one cannot be had, or on CUDA, in the case of `auto`, the kernels cannot.
    """
    device = spec.device.type
    kernel = KERNELS.get(device, "plain")
    choice = kernel if wanted == "auto" else wanted
    if choice not in (kernel, "plain"):
        raise ConfigError(
            f"attention: {choice} does not run on {device} devices; choose auto, {kernel} or plain"
        )
    if choice == "triton":
        return _triton_or_repair(spec)
    reason = f"there is no kernel for {device} devices"
    if choice == "native":
        try:
            shape = KernelShape(spec.head_dim, spec.repeats, spec.page_size, spec.dtype)
            kernel_path = build_kernel(shape)
            if not _keeps_bits(kernel_path, shape, spec.has_softcap):
                raise KernelError("what this machine's compiler made of it rounds a row by its neighbours")
            return NativeAttention(kernel_path, shape, num_kv_heads=spec.num_kv_heads)
        except KernelError as error:
            if wanted == "native":
                raise ConfigError(f"attention: native cannot be had: {error}") from error
            reason = str(error)
    if wanted == "auto":
        logger.warning("attention=plain, exact but slower than a compiled kernel, because %s", reason)
    return PlainAttention(spec)


@functools.cache
def _keeps_bits(kernel: str, shape: KernelShape, has_softcap: bool) -> bool:
    spec = AttentionSpec(
        num_heads=shape.repeats,
        num_kv_heads=1,
        head_dim=shape.head_dim,
        page_size=shape.page_size,
        max_context=TRIAL_CELLS,
        dtype=shape.dtype,
        device=torch.device("cpu"),
        has_softcap=has_softcap,
    )
    return keeps_bits(NativeAttention(kernel, shape, num_kv_heads=1), spec)


def _triton_or_repair(spec: AttentionSpec) -> TritonBackend:
    try:
        return triton_backend(spec)
    except ConfigError as error:
        raise ConfigError(
            f"attention: the CUDA kernels cannot be had: {error}. `attention: plain` runs without them, as "
            "exact and slower by far"
        ) from error


def triton_backend(spec: AttentionSpec) -> TritonBackend:
    """Return the Triton kernels if they give the right result in a trial call on the device.

    Raises:
        ConfigError: they do not, or cannot be had; the message says why.
    """
    if not has_triton():
        raise ConfigError("triton is not installed, run: pip install triton")
    try:
        backend, whole = TritonBackend(spec), TritonBackend(spec)
        whole.tiling = replace(whole.tiling, max_partials=0)  # nothing is spread
        error = max(trial_error(one, spec) for one in (backend, whole))
    except Exception as refusal:  # whatever the library below raises where it cannot run
        raise ConfigError(f"triton: {reason_of(refusal)}") from refusal
    if error > TRIAL_TOLERANCE[spec.dtype]:
        raise ConfigError(f"triton: off by {error:.3g} in the trial call in {spec.dtype}")
    return backend


def spec_of(
    config, *, page_size: int, max_context: int, device: torch.device, dtype: torch.dtype
) -> AttentionSpec:
    """Return what a model asks of a backend.

    Args:
        config: of the model; its head counts, head size and softcap are read.
        page_size: cells of a page.
        max_context: most cells of a sequence.
        device: where the model is.
        dtype: of the model.
    """
    num_heads = config.num_attention_heads
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
        page_size=page_size,
        max_context=max_context,
        dtype=dtype,
        device=device,
        has_softcap=getattr(config, "attn_logit_softcapping", None) is not None,
    )
