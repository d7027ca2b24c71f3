"""In which precision a model's weights are held while it is trained."""

import logging

import torch
from torch.nn import Module

logger = logging.getLogger(__name__)


def hold_weights(module: Module, *, frozen: str) -> None:
    """Set the dtype of a model's weights in place: trained ones FP32, frozen matrices as asked.

    The trained weights are the master weights of the optimiser; autocast rounds them to BF16 where the
    arithmetic is. Frozen vectors (norms, biases) stay as they are: they are small, and rounding them would
    move the AR view further from the backbone than its matrices do.

    Args:
        frozen: "float32" leaves frozen weights as they are; "bfloat16" halves their memory, and saves
            rounding them for every forward. The residual stream is BF16 then, as in generation.
    """
    for parameter in module.parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif frozen == "bfloat16" and parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)


def warn_where_emulated(precision: str, device: torch.device) -> None:
    """Log a line where `precision` has no instructions: torch's products then take several times as long.

    A Zen 3 core does 8 GFLOP/s in BF16 and 70 in FP32.
    """
    if device.type == "cpu" and precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning(
            "this processor has no BF16 products and torch emulates them slowly: "
            "set loop.precision=float32 loop.frozen_precision=float32 unless the run goes on elsewhere"
        )
