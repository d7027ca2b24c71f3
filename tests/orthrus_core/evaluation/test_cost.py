import pytest
from transformers import Qwen2Config, Qwen3MoeConfig

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.cost import Hardware, ModelShape, fits, forward_bytes, forward_flops, forward_s
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


def test_flops_of_a_forward_are_matrices_and_attention():
    # 2 x 188 per row; attention 4 x 10 positions x 2 heads x 2 numbers x 2 layers per row
    assert forward_flops(TINY, rows=3, context=10) == 3 * (376 + 320)


def test_a_memory_bound_forward_takes_bytes_over_bandwidth():
    hardware = Hardware(bytes_per_s=744.0, flops_per_s=1e12, overhead_s=0.5)
    assert forward_s(hardware, TINY, rows=3, sequences=2, context=10) == pytest.approx(1.0 + 0.5)


def test_a_compute_bound_forward_takes_flops_over_peak():
    hardware = Hardware(bytes_per_s=1e12, flops_per_s=2088.0, overhead_s=0.25)
    assert forward_s(hardware, TINY, rows=3, sequences=2, context=10) == pytest.approx(1.0 + 0.25)


def test_efficiencies_stretch_their_own_side_of_the_roof():
    slow_memory = Hardware(
        bytes_per_s=744.0, flops_per_s=1e12, bandwidth_efficiency=0.5, flops_efficiency=0.1
    )
    slow_matrices = Hardware(
        bytes_per_s=1e12, flops_per_s=2088.0, bandwidth_efficiency=0.1, flops_efficiency=0.5
    )
    for hardware in (slow_memory, slow_matrices):
        assert forward_s(hardware, TINY, rows=3, sequences=2, context=10) == pytest.approx(2.0)


@pytest.mark.parametrize("grown", ["rows", "sequences", "context"])
def test_a_forward_never_gets_cheaper_with_more_work(grown):
    hardware = Hardware(bytes_per_s=1e4, flops_per_s=1e5, overhead_s=1e-3)
    work = {"rows": 4, "sequences": 4, "context": 4}
    times = [forward_s(hardware, TINY, **work | {grown: size}) for size in (4, 8, 64, 1024)]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_a_load_fits_up_to_the_last_byte():
    needed = (216 + 104) * 2 + 3 * 7 * 16
    hardware = Hardware(bytes_per_s=1, flops_per_s=1, memory_bytes=needed)
    assert fits(hardware, TINY, sequences=3, positions=7)
    assert not fits(hardware, TINY, sequences=3, positions=8)
    assert fits(hardware.model_copy(update={"memory_bytes": None}), TINY, sequences=10**6, positions=10**6)
