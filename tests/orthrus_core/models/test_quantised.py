"""Quantised checkpoints are refused before any weight is read."""

import pytest
from transformers import BitsAndBytesConfig

import orthrus_core
from orthrus_core.errors import CheckpointError, ConfigError
from orthrus_core.models.checkpoint import load_config
from orthrus_core.models.head import add_diffusion_head
from tests.orthrus_core.models.directories import edit_config, save
from tests.small_models import small_backbone

METHODS = ("awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors", "modelopt", "mxfp4")


def refusal(path, *, needs_head: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_config(path, needs_head=needs_head)
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_with_a_head_names_its_method(method, checkpoint):
    edit_config(checkpoint, quantization_config={"quant_method": method, "bits": 4})
    assert refusal(checkpoint, needs_head=True) == (
        f"{checkpoint}: its weights are quantised (config.quantization_config: {method}), and only float32, "
        "bfloat16 and float16 ones are run: take the checkpoint that it was made from"
    )


@pytest.mark.parametrize(
    ("fields", "sign"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "config.quantization_config: awq"),
        ({"compression_config": {"format": "int-quantized"}}, "config.compression_config"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "config.quantization"),
        ({"dtype": "float8_e4m3fn"}, "config.dtype: float8_e4m3fn"),
        ({"dtype": None, "torch_dtype": "float8_e5m2"}, "config.dtype: float8_e5m2"),
    ],
)
def test_a_plain_checkpoint_names_where_it_says_so(fields, sign, tmp_path):
    edit_config(save(small_backbone(), tmp_path), **fields)
    assert f"its weights are quantised ({sign})" in refusal(tmp_path, needs_head=False)


def test_a_file_beside_a_config_that_does_not_tell_is_enough(checkpoint):
    (checkpoint / "hf_quant_config.json").write_text("{}")
    assert "quantised (hf_quant_config.json)" in refusal(checkpoint, needs_head=True)


def test_no_way_of_loading_goes_past_that(load, checkpoint):
    edit_config(checkpoint, quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(CheckpointError, match="weights are quantised"):
        load(checkpoint)


def test_a_plain_one_is_not_loaded_for_ar_decoding_either(tmp_path):
    edit_config(save(small_backbone(), tmp_path), quantization_config={"quant_method": "gptq"})
    with pytest.raises(CheckpointError, match="weights are quantised"):
        orthrus_core.load_model(tmp_path, needs_head=False)


@pytest.mark.parametrize("value", [None, {}])
def test_a_config_that_names_no_quantisation_is_fine(value, checkpoint):
    edit_config(checkpoint, quantization_config=value)
    assert load_config(checkpoint).block_size == 8


def test_a_backbone_that_was_quantised_while_loading_gets_no_head():
    backbone = small_backbone()
    backbone.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ConfigError, match=r"it has quantised weights \(config.quantization_config\)"):
        add_diffusion_head(backbone, block_size=4, mask_token_id=96)
