"""Tensors of which every process holds a part: to the whole and back."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only its part of the tensor."""
    return isinstance(tensor, DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor on every process; called by all of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_copy(tensor: Tensor, *, keep: bool) -> Tensor:
    """A copy of the whole tensor on the CPU; called by all processes, empty where it is not to be kept."""
    whole = full_tensor(tensor.detach())
    return whole.cpu().clone() if keep else torch.empty(0)


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """The part of `whole` that this process holds of `like`; every process has the same `whole`."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def copy_whole(target: Tensor, whole: Tensor) -> None:
    """Set `target`, whole or sharded, to values that every process has."""
    with torch.no_grad():
        target.copy_(shard_like(whole.to(target.device, target.dtype), target))
