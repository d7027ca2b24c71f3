import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from orthrus_core.models.cost import ModelShape
from orthrus_core.training.anchors import sample_blocks
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.cost import StepSize, step_flops
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, collate
from tests.small_models import small_orthrus

CONFIG = HeadConfig(block_size=4, anchors_per_sequence=6)
BATCH = collate(
    [[Document([5, 6, 7], list(range(8, 25)))], [Document([6], list(range(40, 60)))]], sequence_len=21
)
B, N, A, K = 2, 21, 6, 4


def computed_size() -> StepSize:
    """The step as the written-out attention computes it: every pair of its rectangles, seen or not."""
    blocks = sample_blocks(BATCH, num_anchors=A, block_size=K, generator=torch.Generator().manual_seed(0))
    return StepSize(
        tokens=B * N,
        slots=B * A * K,
        trained_slots=int(blocks.is_trained.sum()),
        text_pairs=B * N * N,
        slot_pairs=B * A * K * (N + K),
        own_pairs=B * A * K * K,
    )


def counted(model, config: HeadConfig) -> int:
    head = HeadObjective(model, config, precision="float32", seed=0)
    with FlopCounterMode(display=False) as counter:
        head.loss(BATCH).total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("loss", ["forward_kl", "cross_entropy"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_formula_counts_the_products_that_torch_counts(loss, num_layers):
    model = small_orthrus(num_layers=num_layers)
    shape = ModelShape.from_config(model.config)
    expected = step_flops(shape, computed_size(), is_kl=loss == "forward_kl").total
    assert counted(model, CONFIG.model_copy(update={"loss": loss})) == expected


def test_layers_computed_again_cost_a_forward_more():
    model = small_orthrus(num_layers=3)
    flops = step_flops(ModelShape.from_config(model.config), computed_size())
    found = counted(model, CONFIG.model_copy(update={"checkpoint_layers": True}))
    assert flops.total < found <= flops.total + flops.recomputed
