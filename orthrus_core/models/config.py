"""Configuration of a dual-view model: that of its backbone plus the shape of its diffusion head."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, Qwen3Config

from orthrus_core.errors import CheckpointError

DIFFUSION_SUFFIX = "_diff"
MIN_BLOCK_SIZE = 2
MODEL_TYPE = "orthrus"
PUBLISHED_BACKBONE = "qwen3"  # of checkpoints whose config does not name it
HEAD_FIELDS = {"block_size", "mask_token_id", "backbone_type", "has_head"}
NOT_THE_BACKBONES = HEAD_FIELDS | {"model_type", "architectures", "transformers_version"}


class DualViewConfig(PreTrainedConfig):
    """The fields of the diffusion head, beside those of any backbone.

    Attributes:
        block_size: K, the largest number of tokens drafted in one step (anchor and masks together).
        mask_token_id: vocabulary id of the token that stands in a block for what is to be drafted.
        backbone_type: `model_type` of the backbone.
        has_head: False: the second view is no more than a copy of the first one, and drafts nothing.
    """

    model_type = MODEL_TYPE

    block_size: int = 32
    mask_token_id: int | None = None
    backbone_type: str = PUBLISHED_BACKBONE
    has_head: bool = True
    register_model: ClassVar[Callable[[str], Any] | None] = None  # set by `orthrus_core.models.model`
    if TYPE_CHECKING:
        vocab_size: int

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build the config of the backbone that `config_dict` names, whichever of these classes is asked.

        The Auto classes come here, and know the backbone's model class afterwards, where models are
        imported: tokenizers are to be had without.

        Raises:
            CheckpointError: the backbone is of an unknown type.
        """
        backbone_type = config_dict.get("backbone_type", PUBLISHED_BACKBONE)
        own_class: Any = config_class(backbone_type)
        if DualViewConfig.register_model is not None:
            DualViewConfig.register_model(backbone_type)
        if cls is own_class:
            return super().from_dict(config_dict, **kwargs)
        return own_class.from_dict(config_dict, **kwargs)

    def check_head(self) -> None:
        """Refuse a head that cannot draft.

        Raises:
            CheckpointError: `mask_token_id` is missing or outside the vocabulary, or `block_size` < 2.
        """
        if self.mask_token_id is None:
            raise CheckpointError(
                "config.mask_token_id is missing: name the id of the mask token (published heads use 151669)"
            )
        for name in ("mask_token_id", "block_size"):
            value = getattr(self, name)
            if type(value) is not int:
                raise CheckpointError(f"config.{name} must be an integer, got {value!r}")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise CheckpointError(
                f"config.mask_token_id must be inside the vocabulary of {self.vocab_size} entries, "
                f"got {self.mask_token_id}"
            )
        if self.block_size < MIN_BLOCK_SIZE:
            raise CheckpointError(f"config.block_size must be >= {MIN_BLOCK_SIZE}, got {self.block_size}")


class OrthrusConfig(Qwen3Config, DualViewConfig):
    """Qwen3's configuration with the fields of the diffusion head, as the published checkpoints have it."""

    model_type = MODEL_TYPE


@functools.cache
def config_class(backbone_type: str) -> type[DualViewConfig]:
    """Return the dual-view config of a backbone, made once per type.

    Args:
        backbone_type: a `model_type` of transformers.
    Raises:
        CheckpointError: transformers does not know it.
    """
    if backbone_type == PUBLISHED_BACKBONE:
        return OrthrusConfig
    own_class = plain_config_class(backbone_type)
    namespace = {
        "__module__": __name__,
        "__doc__": f"{own_class.__name__} with the fields of the diffusion head.",
        "__annotations__": {"backbone_type": str},
        "model_type": MODEL_TYPE,
        "backbone_type": backbone_type,
    }
    return type(f"Orthrus{own_class.__name__}", (own_class, DualViewConfig), namespace)


def plain_config_class(backbone_type: str) -> type[PreTrainedConfig]:
    """Return transformers' own config of a backbone.

    Raises:
        CheckpointError: transformers does not know it.
    """
    if backbone_type == MODEL_TYPE or backbone_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"config names a backbone of type {backbone_type!r}, which this version of transformers does not "
            "know"
        )
    return CONFIG_MAPPING[backbone_type]


def plain_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of a backbone's config, without the head's and without what saving adds."""
    return {name: value for name, value in config.to_dict().items() if name not in NOT_THE_BACKBONES}


def head_dim(config: Any) -> int:
    """Return Dh, the size of an attention head; not every architecture's config names it."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


AutoConfig.register(OrthrusConfig.model_type, OrthrusConfig, exist_ok=True)
