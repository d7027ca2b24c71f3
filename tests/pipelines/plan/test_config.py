from pathlib import Path

import pytest

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.cost import ModelShape
from pipelines.config import load_config
from pipelines.plan.config import PlanConfig, Presets
from pipelines.plan.job import plan

CONFIGS = Path(__file__).parents[3] / "configs" / "plan"
PRESETS = CONFIGS / "presets.yaml"


def plan_config(*overrides):
    return load_config(PlanConfig, CONFIGS / "h200-8b.yaml", [f"presets={PRESETS}", *overrides])


def test_the_presets_name_the_devices_and_models_that_plans_want():
    presets = load_config(Presets, PRESETS)
    assert set(presets.hardware) == {"h200", "a100-80gb", "rtx-4090"}
    assert set(presets.models) == {"qwen3-1.7b", "qwen3-4b", "qwen3-8b"}


@pytest.mark.parametrize(("name", "billions"), [("qwen3-1.7b", 1.72), ("qwen3-4b", 4.02), ("qwen3-8b", 8.19)])
def test_preset_shapes_have_the_published_number_of_parameters(name, billions):
    shape = load_config(Presets, PRESETS).shape(name)
    assert shape.backbone_params / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_head_of_the_8b_model_has_the_published_share_of_parameters():
    shape = load_config(Presets, PRESETS).shape("qwen3-8b")
    share = shape.head_params / (shape.backbone_params + shape.head_params)
    assert share == pytest.approx(0.16, abs=0.005)


def test_an_unnamed_size_of_the_family_has_the_published_number_too():
    shape = ModelShape(
        num_layers=28,
        hidden_size=1024,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151936,
        tied_embeddings=True,
    )
    assert shape.backbone_params == 596_049_920  # Qwen3-0.6B


@pytest.mark.parametrize("device", ["h200", "a100-80gb", "rtx-4090"])
@pytest.mark.parametrize("model", ["qwen3-1.7b", "qwen3-4b", "qwen3-8b"])
def test_every_pair_of_presets_can_be_planned(device, model):
    [alone, _] = plan(
        plan_config(f"hardware={device}", f"model={model}", "batch_sizes=[1, 8]", "contexts=[512]")
    )
    assert alone.fits
    assert alone.drafts == 32
    assert 3 < alone.speedup < 5  # 9.6 tokens per step for a little over two forwards


def test_all_three_ways_to_describe_text_give_a_curve():
    traffic = "{a: {tokens_per_step: 3}, b: {conditional: [0.5, 0.25]}, "
    traffic += "c: {accepted_by_position: [5, 2], drafted_by_position: [10, 10]}}"
    curves = plan_config(f"traffic={traffic}").curves()
    assert curves[0].tokens_per_step(32) == pytest.approx(3)
    assert curves[1].survival == (0.5, 0.125)
    assert curves[2].survival == (0.5, 0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("block_sizes=[8, 64]", "block_sizes must be <= block_size (32), got 64"),
        ("traffic.gsm8k.tokens_per_step=40", "traffic of gsm8k: tokens per step must be between 1 and 32"),
        ("traffic.gsm8k.conditional=[0.5]", "must have exactly one of"),
        ("traffic.other={accepted_by_position: [1]}", "drafted_by_position together"),
        ("batch_sizes=[0]", "batch_sizes[0] must be >= 1, got 0"),
    ],
)
def test_a_mistake_is_refused_by_name(override, message):
    with pytest.raises(ConfigError) as caught:
        plan_config(override)
    assert message in str(caught.value)


def test_an_unknown_device_or_model_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="hardware must be one of h200, a100-80gb, rtx-4090, got h300"):
        plan(plan_config("hardware=h300"))
    with pytest.raises(ConfigError, match=r"model must be one of qwen3-1\.7b, .*, got gpt"):
        plan(plan_config("model=gpt"))
