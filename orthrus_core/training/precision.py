"""In which precision a model's weights are held while it is trained."""

import torch
from torch.nn import Module


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
