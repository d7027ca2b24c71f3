import pytest
import torch

from orthrus_core.models.cost import ModelShape
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.cost import step_flops
from tests.benchmarks.gpu.shapes import model_shape
from tests.benchmarks.gpu.training import PUBLISHED_LOAD, time_training
from tests.benchmarks.gpu.training_load import (
    TrainingLoad,
    TrainingStep,
    flops_by_part,
    random_batch,
    step_size,
)
from tests.small_models import small_orthrus

LOAD = TrainingLoad(sequences=2, sequence_len=40, anchors=5, block_size=4)


def test_rows_are_two_documents_that_fill_them():
    batch = random_batch(LOAD, vocab_size=97)
    assert batch.input_ids.shape == (2, 40)
    assert (batch.document_idx == torch.tensor([0] * 20 + [1] * 20)).all()
    assert batch.is_completion.sum() == 2 * 2 * (20 - 3)


def test_only_pairs_that_the_masks_show_count():
    size = step_size(random_batch(LOAD, vocab_size=97), HeadConfig(block_size=4, anchors_per_sequence=5))
    assert (size.tokens, size.slots) == (80, 40)
    assert size.text_pairs == 4 * 20 * 21 // 2
    assert size.own_pairs == 40 * 4
    assert size.own_pairs < size.slot_pairs < 40 * (20 + 4)


def test_a_step_moves_the_head_in_fp32_beside_a_bf16_backbone():
    model = small_orthrus(dtype=torch.bfloat16)
    step = TrainingStep(model, LOAD, precision="bfloat16", checkpoint_layers=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step.run()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == (torch.float32 if "_diff" in name else torch.bfloat16)
        assert torch.equal(tensor, before[name]) == ("_diff" not in name), name
    assert sum(flops_by_part(step.flops).values()) == pytest.approx(1)


def test_the_published_load_at_the_1_7b_shape_costs_what_a_count_by_hand_says():
    shape = model_shape("1.7b", dtype=torch.bfloat16)
    batch = random_batch(TrainingLoad(1, *PUBLISHED_LOAD), vocab_size=shape.vocab_size)
    size = step_size(batch, HeadConfig(block_size=32, anchors_per_sequence=256))
    flops = step_flops(shape, size)
    # 1.41e9 matrix parameters in the layers, 0.35e9 of them the head's, 8,192 slots, not all of them trained
    assert flops.forward == pytest.approx(2 * 8192 * 1.41e9, rel=0.15)
    assert flops.backward == pytest.approx(2 * 8192 * (1.41e9 + 0.35e9), rel=0.15)
    assert flops.loss == pytest.approx(6 * size.trained_slots * 151936 * 2048)
    assert 60e12 < flops.total < 90e12


def test_a_step_that_does_not_fit_is_a_line_that_says_so(monkeypatch):
    def run(step: TrainingStep) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(TrainingStep, "run", run)
    shape = ModelShape.from_config(small_orthrus().config)
    _, row = time_training(
        "tiny", shape, device=torch.device("cpu"), dtype=torch.float32, compiled=False, cases=[(1, False)]
    )
    assert row == {"sequences": 1, "layers": "kept", "result": "does not fit"}
