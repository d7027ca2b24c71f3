"""Several processes that train one model: sums over them, and who holds which weights."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Module, Parameter

from orthrus_core.errors import ConfigError
from orthrus_core.training.reduction import GradientSums
from orthrus_core.training.sharding import is_sharded, whole_copy

Mode = Literal["none", "ddp", "fsdp2"]


class Parallel:
    """One process of a run.

    - none: the only process.
    - ddp: every process holds all weights; gradients are summed.
    - fsdp2: the decoder layers are sharded, frozen weights too; embeddings, output head and last norm are on
      every process, as are parameters of a model without them.
    """

    def __init__(self, mode: Mode = "none", device: torch.device | None = None) -> None:
        """Take the default process group, which the caller (Ray Train, torchrun) has set up.

        Args:
            device: where the model is, and tensors to communicate; None: the CPU.
        Raises:
            ConfigError: there is no process group.
        """
        if mode != "none" and not dist.is_initialized():
            raise ConfigError(f"parallel mode {mode} needs torch.distributed, which is not set up: use none")
        self.mode = mode
        self.device = device or torch.device("cpu")
        self.rank = 0 if mode == "none" else dist.get_rank()
        self.world_size = 1 if mode == "none" else dist.get_world_size()
        self._sums: GradientSums | None = None

    def prepare(self, module: Module) -> None:
        """Give every process rank 0's weights, and shard the model in place in mode fsdp2.

        The model's parameters are others afterwards.
        """
        if self.mode == "none":
            return
        for parameter in module.parameters():
            dist.broadcast(parameter.data, src=0)
        if self.mode == "fsdp2":
            _shard(module, self.device)

    def sum_gradients_of(self, parameters: Iterable[Parameter]) -> None:
        """Sum the gradients of these parameters from now on; sharded ones are summed by FSDP2."""
        if self.mode != "none":
            self._sums = GradientSums([p for p in parameters if not is_sharded(p)])

    def expect_backward(self, *, is_last: bool) -> None:
        """Tell that a backward comes; gradients are summed in the last one of a step."""
        if self._sums is not None and is_last:
            self._sums.start()

    def finish_gradients(self) -> None:
        """Wait until the gradients of the last backward are sums over all processes."""
        if self._sums is not None:
            self._sums.finish()

    def sum(self, values: Tensor) -> Tensor:
        """Sum of every process's values, on their device; exact in the order of the backend."""
        if self.mode == "none":
            return values
        summed = values.to(self.device)
        dist.all_reduce(summed)
        return summed

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank; for small things that can be pickled."""
        if self.mode == "none":
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """Rank 0's value on every process."""
        if self.mode == "none":
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def whole_state(self, module: Module, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The state dict of a module with whole tensors on the CPU; called by all, empty but on rank 0.

        Args:
            dtype: of floating-point tensors; None: as they are. Tied tensors stay tied.
        """
        state: dict[str, Tensor] = {}
        seen: dict[int, Tensor] = {}
        for name, value in module.state_dict(keep_vars=True).items():
            if id(value) not in seen:
                rounded = value.to(dtype) if dtype is not None and value.is_floating_point() else value
                seen[id(value)] = whole_copy(rounded, keep=self.rank == 0)
            state[name] = seen[id(value)]
        return state if self.rank == 0 else {}


def _shard(module: Module, device: torch.device) -> None:
    """Shard the decoder layers of a causal LM over all processes."""
    decoder: Any = getattr(module, "model", None)
    layers: Sequence[Module] = list(getattr(decoder, "layers", ()))
    if not layers:
        raise ConfigError(
            f"parallel mode fsdp2 shards decoder layers, {type(module).__name__} has none: use ddp"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    whole = {parameter for parameter in decoder.parameters() if id(parameter) not in in_layers}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    for part in decoder.modules():
        if isinstance(part, FSDPModule):
            # sums, not means: ranks with more to learn in their batches weigh more
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
