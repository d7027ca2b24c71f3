"""Which attention backend runs on a CUDA device."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch

from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import trial_error
from orthrus_core.attention.triton_paged import TritonBackend, has_triton
from orthrus_core.attention.varlen import VarlenBackend, find_varlen_attn
from orthrus_core.errors import ConfigError

logger = logging.getLogger(__name__)

BackendName = Literal["varlen", "triton"]
CudaBackend = VarlenBackend | TritonBackend
REASON_LENGTH = 160
TRIAL_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def cuda_backend(spec: AttentionSpec, *, names: Sequence[BackendName] = ("varlen", "triton")) -> CudaBackend:
    """Return the first backend of `names` that gives the right result in a trial call on the device.

    Args:
        spec: what it is for.
        names: backends in order of preference.
    Raises:
        ConfigError: none of them works; the message has a reason for each. None knows a softcap.
    """
    if spec.has_softcap:
        raise ConfigError("the CUDA kernels know no softcap of attention scores")
    reasons = []
    for name in names:
        try:
            backend = _create(name, spec)
            error = trial_error(backend, spec)
        except Exception as refusal:  # whatever the library below raises where it cannot run
            reason = str(refusal).strip().splitlines() or [type(refusal).__name__]
            reasons.append(f"{name}: {reason[0][:REASON_LENGTH]}")
            continue
        if error <= TRIAL_TOLERANCE[spec.dtype]:
            logger.info("attention=%s skipped=%s", name, reasons)
            return backend
        reasons.append(f"{name}: off by {error:.3g} in the trial call")
    raise ConfigError(f"no attention backend works on {spec.device} in {spec.dtype}: {'; '.join(reasons)}")


def _create(name: BackendName, spec: AttentionSpec) -> CudaBackend:
    if name == "varlen":
        varlen_attn = find_varlen_attn()
        if varlen_attn is None:
            raise ConfigError("torch.nn.attention.varlen takes no block tables here, torch >= 2.13 does")
        return VarlenBackend(spec, varlen_attn)
    if not has_triton():
        raise ConfigError("triton is not installed, run: pip install triton")
    return TritonBackend(spec)
