import torch

from orthrus_core.evaluation.random_model import random_model, random_prompts
from orthrus_core.models.cost import ModelShape

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    vocab_size=50,
    tied_embeddings=True,
)


def test_the_model_has_the_parameters_that_its_shape_says():
    model = random_model(SHAPE, block_size=4, max_context=64)
    assert sum(tensor.numel() for tensor in model.parameters()) == SHAPE.backbone_params + SHAPE.head_params
    assert (model.config.block_size, model.config.mask_token_id) == (4, 49)


def test_the_weights_are_a_function_of_the_seed():
    one, again, other = (
        random_model(SHAPE, block_size=4, max_context=64, seed=seed).lm_head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_prompts_have_one_length_and_no_mask_token():
    prompts = random_prompts(200, 5, vocab_size=7)
    assert {len(prompt) for prompt in prompts} == {5}
    assert {token for prompt in prompts for token in prompt} == set(range(6))
