import pytest
from transformers import Qwen2Config, Qwen3MoeConfig

from orthrus_core.errors import ConfigError
from orthrus_core.models.cost import ModelShape, forward_bytes, forward_flops
from tests.orthrus_core.evaluation.shapes import TINY
from tests.small_models import small_backbone, small_orthrus


def test_parameters_of_a_tiny_shape_are_those_counted_by_hand():
    # a layer: q 4x4, k 4x2, v 4x2, o 4x4 = 48 and an MLP of 3 x 4x3 = 36; output matrix 5x4 = 20
    assert TINY.matrix_params == 2 * (48 + 36) + 20
    # norms of a layer: 4 + 4 around, 2 + 2 on queries and keys; a last one of 4
    assert TINY.backbone_params == 188 + 2 * 12 + 4
    assert TINY.model_copy(update={"tied_embeddings": False}).backbone_params == 216 + 20
    assert TINY.head_params == 2 * (48 + 4)


def test_kv_bytes_of_a_tiny_shape_are_those_counted_by_hand():
    assert TINY.kv_bytes_per_token == 2 * 2 * 1 * 2 * 2  # K and V, layers, heads, head size, bytes


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_agree_with_those_of_a_real_model(tied):
    backbone = small_backbone(tied=tied)
    shape = ModelShape.from_config(backbone.config)
    assert shape.backbone_params == backbone.num_parameters()


def test_head_parameters_agree_with_those_of_a_real_head():
    model = small_orthrus()
    counted = sum(p.numel() for name, p in model.named_parameters() if "_diff" in name)
    assert ModelShape.from_config(model.config).head_params == counted


def test_the_head_size_of_a_config_that_does_not_name_it_is_hidden_size_by_heads():
    assert ModelShape.from_config(Qwen2Config(hidden_size=48, num_attention_heads=4)).head_dim == 12


def test_a_mixture_of_experts_is_refused():
    with pytest.raises(ConfigError, match="dense models only"):
        ModelShape.from_config(Qwen3MoeConfig())


def test_bytes_of_a_forward_are_weights_and_keys_and_values():
    # 188 weights of 2 bytes; 2 sequences x 10 positions read, 3 written, 16 bytes each
    assert forward_bytes(TINY, rows=3, sequences=2, context=10) == 376 + 23 * 16


def test_weights_of_one_byte_are_moved_as_such():
    shape = TINY.model_copy(update={"layer_weight_bytes": 1})
    assert shape.matrix_bytes == 168 + 20 * 2
    assert shape.model_copy(update={"output_weight_bytes": 1}).matrix_bytes == 188


def test_flops_of_a_forward_are_matrices_and_attention():
    # 2 x 188 per row; attention 4 x 10 positions x 2 heads x 2 numbers x 2 layers per row
    assert forward_flops(TINY, rows=3, context=10) == 3 * (376 + 320)
