"""Which models so many ranks can share."""

import pytest

from orthrus_core import ConfigError
from orthrus_core.models.slices import check_slices
from tests.orthrus_core.models.backbones import with_head
from tests.small_models import small_orthrus


@pytest.mark.parametrize(
    ("model", "size", "said"),
    [
        (
            small_orthrus,
            3,
            "tensor_parallel must divide the model's attention heads 4, K/V heads 2, intermediate size 96: "
            "choose of 1, 2, got 3",
        ),
        (small_orthrus, 4, "choose of 1, 2, got 4"),
        (lambda: with_head("qwen3-moe"), 2, "mixture of experts"),
    ],
)
def test_a_model_that_ranks_cannot_share_is_refused_with_what_fits(model, size, said):
    with pytest.raises(ConfigError, match=said):
        check_slices(model().config, size)


def test_a_layer_that_nobody_knows_how_to_cut_is_refused_by_name():
    from tests.orthrus_core.models.backbones import BACKBONES

    BACKBONES["olmo2"] = ("olmo2", {"head_dim": 16, "hidden_size": 64})
    try:
        config = with_head("olmo2").config
    finally:
        del BACKBONES["olmo2"]
    with pytest.raises(ConfigError, match=r"how to cut model\.layers\.0\.self_attn\.q_norm\.weight"):
        check_slices(config, 2)
