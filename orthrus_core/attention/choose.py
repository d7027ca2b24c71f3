"""Which attention runs: the fastest kernel that device and model can have, else the plain one."""

import logging

import torch

from orthrus_core.attention.backend import AttentionBackend
from orthrus_core.attention.kernel import KernelShape, build_kernel
from orthrus_core.attention.native import NativeAttention
from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import TRIAL_TOLERANCE, trial_error
from orthrus_core.attention.triton_paged import TritonBackend, has_triton
from orthrus_core.errors import ConfigError
from orthrus_core.native import KernelError

logger = logging.getLogger(__name__)

REASON_LENGTH = 160


def choose_backend(spec: AttentionSpec) -> AttentionBackend:
    """Return the fastest backend that this device, model and machine can have.

    Where that is the plain one, a warning says so: it is as exact, and slower by far.
    """
    try:
        if spec.device.type == "cpu":
            shape = KernelShape(spec.head_dim, spec.repeats, spec.page_size, spec.dtype)
            return NativeAttention(build_kernel(shape), shape, num_kv_heads=spec.num_kv_heads)
        if spec.device.type == "cuda":
            return triton_backend(spec)
        reason = f"there is no kernel for {spec.device.type} devices"
    except (KernelError, ConfigError) as error:
        reason = str(error)
    logger.warning("attention=plain, exact but slower than a compiled kernel, because %s", reason)
    return PlainAttention(num_kv_heads=spec.num_kv_heads, head_dim=spec.head_dim, dtype=spec.dtype)


def triton_backend(spec: AttentionSpec) -> TritonBackend:
    """Return the Triton kernels if they give the right result in a trial call on the device.

    Raises:
        ConfigError: they do not, or cannot be had; the message says why.
    """
    if spec.has_softcap:
        raise ConfigError("the CUDA kernels know no softcap of attention scores")
    if not has_triton():
        raise ConfigError("triton is not installed, run: pip install triton")
    try:
        backend = TritonBackend(spec)
        error = trial_error(backend, spec)
    except Exception as refusal:  # whatever the library below raises where it cannot run
        reason = str(refusal).strip().splitlines() or [type(refusal).__name__]
        raise ConfigError(f"triton: {reason[0][:REASON_LENGTH]}") from refusal
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
