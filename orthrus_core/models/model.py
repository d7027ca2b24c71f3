"""The dual-view language model as a transformers model."""

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3Model, Qwen3PreTrainedModel

from orthrus_core.errors import CheckpointError
from orthrus_core.models.attention import DIFFUSION_SUFFIX, DualViewAttention
from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.generation import EngineGenerationMixin


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
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load a checkpoint that holds a backbone and its diffusion head.

        Raises:
            CheckpointError: tensors are missing, surplus or of another shape than the config says.
        """
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        check_loading(str(pretrained_model_name_or_path), info)
        return (model, info) if output_loading_info else model


def check_loading(path: str, info: dict) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the model.

    Args:
        path: named in the error.
        info: transformers' loading info (`missing_keys`, `unexpected_keys`, `mismatched_keys`).
    Raises:
        CheckpointError: naming the first few tensors and the repair.
    """
    problems = {
        "missing": sorted(info.get("missing_keys", ())),
        "surplus": sorted(info.get("unexpected_keys", ())),
        "wrongly shaped": sorted(str(key[0]) for key in info.get("mismatched_keys", ())),
    }
    found = [f"{len(names)} {what} ({_first_few(names)})" for what, names in problems.items() if names]
    if not found:
        return
    missing = problems["missing"]
    if missing and all(DIFFUSION_SUFFIX in name for name in missing):
        repair = "add a head with orthrus_core.add_diffusion_head, or point to a checkpoint that has one"
    else:
        repair = "the config and the weights do not belong together; re-download or re-save the checkpoint"
    raise CheckpointError(f"{path}: tensors do not fit an Orthrus model: {', '.join(found)}; {repair}")


def _first_few(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def register() -> None:
    """Make transformers' Auto classes know `model_type: orthrus`."""
    AutoConfig.register(OrthrusConfig.model_type, OrthrusConfig, exist_ok=True)
    AutoModelForCausalLM.register(OrthrusConfig, OrthrusLM, exist_ok=True)
