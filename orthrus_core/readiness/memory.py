"""What an engine holds on its device: a plan in bytes, made before anything is allocated."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from orthrus_core.attention.choose import spec_of
from orthrus_core.attention.triton_paged import partial_bytes
from orthrus_core.attention.view import VIEWS
from orthrus_core.engine.config import EngineConfig
from orthrus_core.models.config import DIFFUSION_SUFFIX, DualViewConfig
from orthrus_core.models.experts import experts_width
from orthrus_core.models.slices import new_slice, new_whole
from orthrus_core.readiness.ladder import (
    MOST_CHOOSING,
    candidate_budgets,
    choose_token_budget,
    most_choosing,
)

READOUT_BYTES = 8  # of a logit: two FP32 copies, the readout's and one without its largest
SAMPLING_BYTES = {  # of a logit, by the rule for sampled text; drawing itself takes none (measured: 0.2)
    "coupled": 9,  # rows under a grammar: two masked copies in FP32, a flag
    "rejection": 24,  # scores and probabilities of both views, and what is left of them (measured: 21.6)
}
GRAPH_LAYER_BYTES = 2**18  # of a layer in a CUDA graph: assumed, not measured
GRAPH_LOGITS = 2  # copies, of both views: what a graph returns lives beside its pool
ACTIVATIONS = 6  # of hidden size that live at once beside the MLP's two and attention's q, k, v and output


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of an engine, by what they are for.

    Attributes:
        weights: of the backbone.
        head: of the diffusion head, loaded in AR mode too.
        cache: pages of keys and values.
        partials: results of splits of long sequences, on CUDA, of one layer at a time.
        logits: of the R rows that may choose in a forward of each view, the readout's copies, and on CUDA
            what graphs of both views return.
        sampling: what one forward needs where all these sample.
        branches: pages of blocks that run beside their sequences' rows.
        activations: of a layer of the largest forward, all of its experts.
        graphs: CUDA graphs, of each view and of both.
    """

    weights: int
    head: int
    cache: int
    partials: int
    logits: int
    sampling: int
    branches: int
    activations: int
    graphs: int

    @property
    def model(self) -> int:
        """Weights and head."""
        return self.weights + self.head

    @property
    def buffers(self) -> int:
        """Everything but model and cache."""
        return self.total - self.model - self.cache

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def plan_memory(model: Any, config: EngineConfig, *, device_type: str) -> MemoryPlan:
    """Return what an engine of this model holds.

    Args:
        model: with two views; on the meta device it will do.
        config: with every size resolved, see `sizes.fit`.
        device_type: "cpu" or "cuda".
    """
    T, shape, size = token_budget(model.config, config, device_type), model.config, model.dtype.itemsize
    spec = spec_of(
        shape,
        page_size=config.page_size,
        max_context=config.pages_per_sequence * config.page_size,
        device=torch.device("meta"),
        dtype=model.dtype,
    )
    L, V = shape.num_hidden_layers, shape.vocab_size
    budgets = config.budgets or candidate_budgets(T, device_type)
    R = most_choosing(budgets, max_sequences=config.max_sequences, most_drafts=config.most_drafts(shape))
    on_cuda, views = device_type == "cuda", len(VIEWS) if config.uses_head(shape) else 1
    has_parts = model.lm_head.out_features < V  # of several ranks, before they lie side by side
    attention = 2 * (spec.num_heads + spec.num_kv_heads) * spec.head_dim
    width = ACTIVATIONS * shape.hidden_size + 2 * (shape.intermediate_size or 0) + attention
    shapes = views * len(budgets) + (views - 1) * len(budgets) * (len(budgets) + 1) // 2
    copies = views + has_parts + GRAPH_LOGITS * on_cuda * (views - 1)
    (head, weights), page = model_bytes(model), page_bytes(model, config.page_size)
    num_branches, most_rows = branches_of(model, config, device_type)
    return MemoryPlan(
        weights=weights,
        head=head,
        cache=config.total_pages * page,
        partials=partial_bytes(spec, T) if on_cuda else 0,
        logits=R * V * (size * copies + READOUT_BYTES),
        sampling=R * V * SAMPLING_BYTES[config.consensus],
        branches=num_branches * -(-(config.page_size - 1 + most_rows) // config.page_size) * page,
        activations=T * (width + experts_width(model)) * size,
        graphs=on_cuda * shapes * L * GRAPH_LAYER_BYTES,
    )


def branches_of(model: Any, config: EngineConfig, device_type: str) -> tuple[int, int]:
    """Return how many blocks may run beside their sequences' rows, and the rows of the longest one."""
    if not config.uses_head(model.config):
        return 0, 1
    K = config.block_size or model.config.block_size
    T = min(token_budget(model.config, config, device_type), MOST_CHOOSING)
    return T // K, K


def page_bytes(model: Any, page_size: int) -> int:
    """Bytes of a cache page over all layers."""
    spec = spec_of(
        model.config, page_size=page_size, max_context=0, device=torch.device("meta"), dtype=model.dtype
    )
    cells = page_size * spec.num_kv_heads * spec.head_dim
    return 2 * model.config.num_hidden_layers * cells * model.dtype.itemsize


def token_budget(shape: DualViewConfig, config: EngineConfig, device_type: str) -> int:
    """Return T, the rows of the largest forward, as the config says or as an engine chooses it."""
    largest = config.token_budget or (config.budgets[-1] if config.budgets else None)
    return largest or choose_token_budget(
        max_sequences=config.max_sequences,
        block_size=config.block_size or shape.block_size,
        device_type=device_type,
    )


def skeleton(shape: DualViewConfig, dtype: torch.dtype, ranks: int = 1) -> Any:
    """Return a model, or the slice that each of so many ranks has, without numbers: on the meta device."""
    with torch.device("meta"):
        model: Any = new_whole(shape) if ranks == 1 else new_slice(shape, ranks)
    return model.to(dtype)


def model_bytes(model: Any) -> tuple[int, int]:
    """Return the bytes of the head, and of everything else."""
    sizes = {name: one.numel() * one.element_size() for name, one in model.named_parameters()}
    head = sum(size for name, size in sizes.items() if DIFFUSION_SUFFIX in name)
    return head, sum(sizes.values()) - head
