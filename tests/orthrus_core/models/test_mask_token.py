"""Which token marks the places to draft."""

import logging

import pytest
import torch

import orthrus_core
from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.models.mask_token import choose_mask_token
from tests.orthrus_core.models.directories import assert_same_bits, save
from tests.small_models import small_backbone
from tests.tokenizers import fast_tokenizer

CHARACTERS = 95  # ids below are text


def test_the_tokenizers_own_mask_token_comes_first():
    tokenizer = fast_tokenizer()
    tokenizer.mask_token = "<mask>"
    chosen = choose_mask_token(tokenizer, 120)
    assert str(chosen) == f"{CHARACTERS + 1} (the tokenizer's mask token)"


def test_a_mask_token_that_ends_texts_is_none():
    tokenizer = fast_tokenizer()
    tokenizer.mask_token = "<eos>"
    assert choose_mask_token(tokenizer, 120).id == CHARACTERS + 2


def test_the_first_id_that_the_tokenizer_does_not_use_comes_next():
    special = ("<eos>", "<|reserved_special_token_0|>")
    chosen = choose_mask_token(fast_tokenizer(special=special), 120)
    assert str(chosen) == f"{CHARACTERS + 2} (an id that the tokenizer does not use)"


@pytest.mark.parametrize(
    "names",
    [
        ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
        ("<unused0>", "<unused1>"),
        ("[unused8]", "[unused9]"),
        ("<|extra_3|>", "<|extra_4|>"),
        ("<extra_id_0>", "<extra_id_1>"),
    ],
)
def test_the_last_token_in_reserve_comes_next(names):
    chosen = choose_mask_token(fast_tokenizer(special=("<eos>", *names)), CHARACTERS + 3)
    assert (chosen.id, chosen.origin) == (CHARACTERS + 2, f"the reserved token {names[1]}")


def test_a_reserved_token_that_pads_or_a_word_that_says_reserved_is_none():
    tokenizer = fast_tokenizer(["reserved"], special=("<eos>", "<unused0>"))
    tokenizer.pad_token = "<unused0>"
    chosen = choose_mask_token(tokenizer, CHARACTERS + 3)
    assert str(chosen) == f"{CHARACTERS + 3} (a new row of the embedding table)"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_without_any_named_gets_a_row_whose_logit_is_the_mean(tied, dtype):
    backbone = small_backbone(tied=tied, dtype=dtype)
    model = add_diffusion_head(backbone, block_size=4)
    assert (model.config.mask_token_id, model.config.vocab_size) == (97, 98)
    ids = torch.tensor([[5, 6, 7]])
    logits, expected = model(ids).logits.float(), backbone(ids).logits.float()
    tolerance = 1e-5 if dtype is torch.float32 else 5e-2
    assert torch.allclose(logits[..., :97], expected, atol=tolerance)
    assert torch.allclose(logits[..., 97], expected.mean(-1), atol=tolerance)


def test_the_longer_tables_change_no_text():
    backbone = small_backbone()
    config, params = EngineConfig(max_context=64), SamplingParams(max_new_tokens=20)
    texts = [
        Engine(add_diffusion_head(backbone, block_size=4, **mask), config).generate([[5, 6, 7]], params)
        for mask in ({}, {"mask_token_id": 96})
    ]
    assert texts[0][0].token_ids == texts[1][0].token_ids


def test_the_longer_tables_are_saved_and_loaded(tmp_path):
    model = add_diffusion_head(small_backbone(), block_size=4)
    assert_same_bits(orthrus_core.load_model(save(model, tmp_path)), model)


def test_a_tokenizer_spares_the_row_and_the_choice_is_logged(caplog):
    caplog.set_level(logging.INFO)
    model = add_diffusion_head(small_backbone(vocab_size=100), tokenizer=fast_tokenizer())
    assert (model.config.mask_token_id, model.config.vocab_size) == (97, 100)
    assert caplog.messages == ["mask_token=97 (an id that the tokenizer does not use)"]
