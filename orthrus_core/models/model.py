"""The dual-view language model as a transformers model, one class per kind of backbone."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from orthrus_core.attention.view import Attend, BothViews, View
from orthrus_core.errors import CheckpointError, ConfigError, OrthrusError
from orthrus_core.models.attention import add_second_view, attend_config
from orthrus_core.models.checkpoint import check_directory, load_config, refuse_tensors
from orthrus_core.models.config import (
    PUBLISHED_BACKBONE,
    DualViewConfig,
    OrthrusConfig,
    config_class,
    plain_config_class,
)
from orthrus_core.models.requirements import check_backbone
from orthrus_core.ranks import Ranks

ELSEWHERE = {"state_dict", "gguf_file", "subfolder", "variant"}  # options that take weights from other files


class DualViewLM(GenerationMixin):
    """A frozen backbone plus the diffusion head; goes before the backbone's class among the bases.

    `forward` is the backbone's own and takes two keyword arguments more, `view` and `attend`, which reach
    every attention layer (see `DualViewAttention.forward`). Without them it is the backbone's forward.
    """

    if TYPE_CHECKING:
        config: DualViewConfig
        model: Any
        lm_head: nn.Linear

    ranks: Ranks | None = None  # those that have the model together; None: it is whole
    engine_generate: ClassVar[Callable[..., Tensor] | None] = None  # set by `orthrus_core.hf`

    def __init__(self, config: DualViewConfig):
        config.check_head()
        super().__init__(config)  # type: ignore[call-arg]
        check_backbone(self)  # type: ignore[arg-type]
        layer_config = attend_config(self.config)
        for layer in self.model.layers:
            add_second_view(layer.self_attn, layer_config)

    def hidden_states(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        *,
        view: View = "ar",
        attend: Attend | BothViews,
        decoder: Callable[..., Any] | None = None,
    ) -> Tensor:
        """Run the decoder stack of one view, or of both where `attend` says which rows are whose.

        Args:
            token_ids: (B, N) int64.
            position_ids: (B, N) int64.
            view: which projections to use.
            attend: does the attention.
            decoder: `self.model` or what torch.compile made of it; None: `self.model`.
        Returns:
            (B, N, D), after the last norm.
        """
        decoder = self.model if decoder is None else decoder  # a compiled one has no truth value
        output = decoder(
            input_ids=token_ids,
            position_ids=position_ids,
            # transformers takes what has 4 dimensions for a finished mask and makes none; nobody reads it
            attention_mask=position_ids[None, None],
            use_cache=False,
            view=view,
            attend=attend,
        )
        return output.last_hidden_state

    def generate(self, *args, use_diffusion_mode: bool | None = None, **kwargs):  # type: ignore[override]
        """Generate as transformers does, or with the engine: see `orthrus_core.hf.generation.generate`.

        Args:
            use_diffusion_mode: True: consensus decoding; False: plain AR decoding by the same engine, the
                same tokens bit for bit; None: transformers' own `generate` with everything it offers.
        """
        if use_diffusion_mode is None:
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        if self.ranks is not None:
            raise ConfigError("a slice of a model generates by an Engine on rank 0, not by generate()")
        by_engine = type(self).engine_generate
        if by_engine is None:
            raise OrthrusError("use_diffusion_mode needs the engine: import orthrus_core.hf.generation")
        return by_engine(self, *args, use_diffusion_mode=use_diffusion_mode, **kwargs)

    @property
    def logit_softcap(self) -> float | None:
        """c in c * tanh(logit / c), which some architectures take of their logits."""
        return getattr(self.config, "final_logit_softcapping", None)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) of hidden states (..., D), as the backbone's forward does."""
        logits = self.lm_head(hidden)
        cap = self.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs
    ):
        """Load a checkpoint that holds a backbone and its diffusion head.

        A local directory is checked before anything is loaded, a hub download afterwards.

        Raises:
            CheckpointError: tensors are missing, surplus or of another shape than the config says, or the
                backbone is of another type than this class.
        """
        path = pretrained_model_name_or_path
        if path is not None and Path(path).is_dir() and not kwargs.keys() & ELSEWHERE:
            cls._check_directory(path, kwargs.get("config"))
        kwargs["ignore_mismatched_sizes"] = True  # not ignored: the loading info has them
        loaded: Any = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)  # type: ignore
        model, info = loaded
        refuse_tensors(
            path,
            missing=info["missing_keys"],
            surplus=info["unexpected_keys"],
            misshaped=[str(key[0]) for key in info["mismatched_keys"]],
        )
        return loaded if output_loading_info else model

    @classmethod
    def _check_directory(cls, path: str | Path, config: object) -> None:
        own = load_config(path)
        config = config if isinstance(config, DualViewConfig) else own
        if not isinstance(config, cls.config_class):  # type: ignore[attr-defined]
            raise CheckpointError(
                f"{path}: holds a {config.backbone_type} backbone, which {cls.__name__} is not: "
                "load it with orthrus_core.load_model or AutoModelForCausalLM"
            )
        with torch.device("meta"):
            skeleton = cls(copy.deepcopy(config))
        check_directory(path, skeleton)  # type: ignore[arg-type]


class OrthrusLM(DualViewLM, Qwen3ForCausalLM):
    """A frozen Qwen3 backbone plus the diffusion head, under the published parameter names.

    Where a type annotation says `OrthrusLM`, the classes of other backbones do as well: see `model_class`.
    """

    config: OrthrusConfig
    config_class = OrthrusConfig


@functools.cache
def model_class(backbone_type: str) -> type[OrthrusLM]:
    """Return the dual-view model of a backbone; made once per type, and known to the Auto classes then.

    Args:
        backbone_type: a `model_type` of transformers.
    Returns:
        `OrthrusLM` for Qwen3; for others a sibling of it, `DualViewLM` before the backbone's own class.
    Raises:
        CheckpointError: transformers does not know the type, or has no causal LM for it.
    """
    if backbone_type == PUBLISHED_BACKBONE:
        return OrthrusLM
    own_class, config = plain_model_class(backbone_type), config_class(backbone_type)
    namespace = {
        "__module__": __name__,
        "__doc__": f"A frozen {own_class.__name__} plus the diffusion head.",
        "__annotations__": {"config": config},
        "config_class": config,
    }
    made: Any = type(f"Orthrus{own_class.__name__}", (DualViewLM, own_class), namespace)
    AutoModelForCausalLM.register(config, made, exist_ok=True)
    return made


def plain_model_class(backbone_type: str) -> type[PreTrainedModel]:
    """Return transformers' own causal LM of a backbone.

    Raises:
        CheckpointError: there is none.
    """
    own_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(plain_config_class(backbone_type), None)
    if own_class is None:
        raise CheckpointError(f"transformers has no causal LM for a backbone of type {backbone_type!r}")
    return own_class


AutoModelForCausalLM.register(OrthrusConfig, OrthrusLM, exist_ok=True)
DualViewConfig.register_model = staticmethod(model_class)
