import pytest
import torch

from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, collate
from orthrus_core.training.precision import hold_weights, warn_where_emulated
from orthrus_core.training.trainer import Trainer
from tests.small_models import small_orthrus

BATCH = collate([[Document([5, 6], list(range(20, 40)))]], sequence_len=24)


def objective(model, precision: str = "bfloat16") -> HeadObjective:
    return HeadObjective(model, HeadConfig(block_size=4, anchors_per_sequence=6), precision=precision, seed=0)


def test_frozen_matrices_become_bfloat16_and_all_else_stays_fp32():
    model = small_orthrus()
    objective(model)
    hold_weights(model, frozen="bfloat16")
    for name, parameter in model.named_parameters():
        is_rounded = "_diff" not in name and parameter.ndim == 2
        assert parameter.dtype == (torch.bfloat16 if is_rounded else torch.float32), name


def test_tied_weights_stay_tied():
    model = small_orthrus(tied=True)
    objective(model)
    hold_weights(model, frozen="bfloat16")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_trained_weights_of_a_bfloat16_model_become_fp32():
    model = small_orthrus(dtype=torch.bfloat16)
    hold_weights(objective(model).module, frozen="float32")
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert dtypes == {torch.float32}


def test_a_backbone_held_in_bfloat16_changes_the_loss_only_a_little():
    held, rounded = small_orthrus(noise=0.05), small_orthrus(noise=0.05)
    expected = objective(held).loss(BATCH)
    other = objective(rounded)
    hold_weights(rounded, frozen="bfloat16")
    assert other.loss(BATCH).total.item() == pytest.approx(expected.total.item(), rel=0.03)


def test_updates_smaller_than_bfloat16_can_hold_add_up():
    model = small_orthrus(noise=0.0)
    weight = model.model.layers[0].self_attn.q_proj_diff.weight
    before = weight.detach().clone()
    trainer = Trainer(
        objective(model),
        optimizer=OptimizerConfig(kind="adamw", adamw_lr=1e-6, warmup=0.0),
        loop=LoopConfig(max_tokens=22 * 3, frozen_precision="bfloat16"),
        held_out=[BATCH],
        save=lambda trainer: None,
    )
    trainer.run(iter([BATCH] * 3))
    # AdamW moves a weight by the learning rate at first; 0.2 in BF16 cannot move by less than 4e-4.
    moved = (weight - before).abs()
    assert 1e-6 < moved.max() < 3e-6


def test_a_bfloat16_backbone_under_fp32_arithmetic_is_refused():
    with pytest.raises(ValueError, match="set both or neither"):
        LoopConfig(max_tokens=1, precision="float32", frozen_precision="bfloat16")


@pytest.mark.parametrize(
    ("precision", "has_products", "warns"),
    [("bfloat16", False, 1), ("bfloat16", True, 0), ("float32", False, 0)],
)
def test_arithmetic_that_the_processor_has_not_is_a_warning(
    precision, has_products, warns, monkeypatch, caplog
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_products)
    warn_where_emulated(precision, torch.device("cpu"))
    assert caplog.text.count("set loop.precision=float32") == warns
