"""The dual-view language model as a transformers model."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3Model, Qwen3PreTrainedModel

from orthrus_core.models.attention import DualViewAttention
from orthrus_core.models.checkpoint import check_directory, load_config, refuse_tensors
from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.generation import EngineGenerationMixin

ELSEWHERE = {"state_dict", "gguf_file", "subfolder", "variant"}  # options that take weights from other files


class OrthrusModel(Qwen3Model):
    """Qwen3's decoder stack with dual-view attention in every layer."""

    config: OrthrusConfig

    def __init__(self, config: OrthrusConfig):
        super().__init__(config)
        for layer_idx, layer in enumerate(self.layers):
            layer.self_attn = DualViewAttention(config, layer_idx)
        self.post_init()


class OrthrusLM(EngineGenerationMixin, Qwen3ForCausalLM):
    """A frozen Qwen3 backbone plus the diffusion head, under the published parameter names.

    `forward` is Qwen3's own and takes two keyword arguments more, `view` and `attend`, which reach every
    attention layer (see `DualViewAttention.forward`). Without them it is the backbone's forward.
    """

    config: OrthrusConfig
    config_class = OrthrusConfig

    def __init__(self, config: OrthrusConfig):
        config.check_head()
        Qwen3PreTrainedModel.__init__(self, config)
        self.model = OrthrusModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs
    ):
        """Load a checkpoint that holds a backbone and its diffusion head.

        A local directory is checked before anything is loaded, a hub download afterwards.

        Raises:
            CheckpointError: tensors are missing, surplus or of another shape than the config says.
        """
        path = pretrained_model_name_or_path
        if path is not None and Path(path).is_dir() and not kwargs.keys() & ELSEWHERE:
            cls._check_directory(path, kwargs.get("config"))
        kwargs["ignore_mismatched_sizes"] = True  # not ignored: the loading info has them
        loaded: Any = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
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
        config = config if isinstance(config, OrthrusConfig) else own
        with torch.device("meta"):
            skeleton = cls(copy.deepcopy(config))
        check_directory(path, skeleton)


def register() -> None:
    """Make transformers' Auto classes know `model_type: orthrus`."""
    AutoConfig.register(OrthrusConfig.model_type, OrthrusConfig, exist_ok=True)
    AutoModelForCausalLM.register(OrthrusConfig, OrthrusLM, exist_ok=True)
