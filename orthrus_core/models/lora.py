"""LoRA adapters in peft's format, added to a model's weights when it is loaded.

The product is taken in float64 and the sum rounded once to the weight's dtype, so that machines of different
make come to the same weights.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from orthrus_core.errors import CheckpointError
from orthrus_core.models.checkpoint import one_line

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
REPAIR = "merge it with peft, and take the merged model as it is"
# Fields that make more of an adapter than products
OTHER_KINDS = (
    "use_dora",
    "fan_in_fan_out",
    "layer_replication",
    "alora_invocation_tokens",
    "modules_to_save",
)
# of init_lora_weights: the names that leave the backbone alone
PLAIN_INITS = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Update:
    """What is added to one weight: scale * B @ A, with A (r, in) and B (out, r)."""

    A: Tensor
    B: Tensor
    scale: float

    def added_to(self, weight: Tensor) -> Tensor:
        """Return (out, in), the weight (out, in) with the update, in its dtype."""
        return (weight.double() + self.scale * (self.B.double() @ self.A.double())).to(weight.dtype)


@torch.no_grad()
def merge_lora(model: nn.Module, directory: str | Path) -> None:
    """Add an adapter to the weights it was trained for, in place; a diffusion head's own stay as they are.

    Args:
        model: on the CPU.
        directory: local, as peft saves it.
    Raises:
        CheckpointError: no adapter there, of a kind that is more than products, or of another model.
    """
    updates = read_updates(directory)
    check_updates(directory, model, updates)
    for name, update in updates.items():
        weight = model.get_submodule(name).weight
        weight.copy_(update.added_to(weight))  # type: ignore[operator, union-attr, arg-type]


def read_updates(directory: str | Path) -> dict[str, Update]:
    """An adapter's updates by the module they belong to.

    Raises:
        CheckpointError: no adapter there, or of a kind that is more than products.
    """
    path = Path(directory)
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(path / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: is no LoRA adapter as peft saves it, with {CONFIG_FILE} and {WEIGHTS_FILE}: "
            f"{one_line(error)}"
        ) from error
    _refuse_other_kinds(directory, config)
    found = {name: TENSOR.fullmatch(name) for name in tensors}
    if other := sorted(name for name, match in found.items() if match is None):
        raise CheckpointError(
            f"{directory}: has {len(other)} tensors that are no low-rank products, such as {other[0]}: "
            f"{REPAIR}"
        )
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, match in found.items():
        assert match is not None
        pairs.setdefault(match[1], {})[match[2]] = tensors[name]
    if half := sorted(name for name, pair in pairs.items() if len(pair) < 2):
        raise CheckpointError(f"{directory}: has one of lora_A and lora_B of {half[0]} only")
    return {
        name: Update(pair["A"], pair["B"], _scale(config, name, len(pair["A"])))
        for name, pair in pairs.items()
    }


def check_updates(directory: str | Path, model: nn.Module, updates: Mapping[str, Update]) -> None:
    """Refuse updates that do not fit a model.

    Args:
        model: on any device, meta too.
    Raises:
        CheckpointError: no linear layer of a name, another shape, or a weight that is the embedding too.
    """
    modules = dict(model.named_modules())
    tied = {id(one.weight) for one in modules.values() if isinstance(one, nn.Embedding)}
    for name, update in updates.items():
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            raise CheckpointError(
                f"{directory}: updates {name}, and the model has no linear layer of that name"
            )
        shape = (len(update.B), update.A.shape[1])
        if tuple(module.weight.shape) != shape or len(update.A) != update.B.shape[1]:
            raise CheckpointError(
                f"{directory}: is of another model: its update of {name} is {list(shape)}, the weight "
                f"{list(module.weight.shape)}"
            )
        if id(module.weight) in tied:
            raise CheckpointError(
                f"{directory}: updates {name}, which is the embedding too, so both would change: {REPAIR}"
            )


def _refuse_other_kinds(directory: str | Path, config: Mapping[str, Any]) -> None:
    kinds = [f"{name}: {config[name]}" for name in OTHER_KINDS if config.get(name)]
    if config.get("peft_type") != "LORA":
        kinds.append(f"peft_type: {config.get('peft_type')}")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init not in PLAIN_INITS:  # its backbone is not the one that it was made from
        kinds.append(f"init_lora_weights: {init}")
    if kinds:
        raise CheckpointError(f"{directory}: is no plain LoRA adapter ({', '.join(kinds)}): {REPAIR}")


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """lora_alpha, or what alpha_pattern says of the module, over the rank or its square root."""
    patterns = config.get("alpha_pattern") or {}
    own = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
    alpha = next(own, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
