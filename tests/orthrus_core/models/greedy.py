"""Prompts for `generate`, and what greedy decoding of them must give."""

import random

import torch
from torch import Tensor

from tests.small_models import MASK_TOKEN_ID

PAD = 0


def prompts(*lengths: int, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Left-padded random prompts without the pad token, and their mask; (B, N) each."""
    rng = random.Random(seed)
    width = max(lengths)
    rows = [[PAD] * (width - n) + rng.choices(range(1, MASK_TOKEN_ID), k=n) for n in lengths]
    mask = [[0] * (width - n) + [1] * n for n in lengths]
    return torch.tensor(rows), torch.tensor(mask)


def engine_equals_transformers(model, input_ids: Tensor, **options) -> Tensor:
    """Assert that three ways of greedy decoding give the same tensor, and return it."""
    expected = model.generate(input_ids, do_sample=False, **options)
    for mode in (True, False):
        assert torch.equal(model.generate(input_ids, use_diffusion_mode=mode, **options), expected), mode
    return expected


def some_emitted(model, input_ids: Tensor, place: int) -> int:
    """The token that greedy decoding of the first prompt emits at `place` and not before."""
    out = model.generate(input_ids[:1], do_sample=False, max_new_tokens=place + 1)[0, input_ids.shape[1] :]
    assert out[-1] not in out[:-1], "the test wants another prompt"
    return int(out[-1])
