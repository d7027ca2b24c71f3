import random

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3ForCausalLM

import orthrus_core
from orthrus_core.attention.rows import Span
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.errors import CheckpointError
from orthrus_core.models.config import OrthrusConfig
from tests.orthrus_core.models.reference import ar_logits, diffusion_logits
from tests.small_models import MASK_TOKEN_ID, small_backbone, small_orthrus

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def tokens(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(MASK_TOKEN_ID), k=count)


def runner_for(model, *, num_slots: int = 2, page_size: int = 4) -> ModelRunner:
    """A runner whose slots have 128 cells each, all holding old garbage, in scattered pages."""
    pages_per_sequence = 128 // page_size
    pool = PagePool(num_slots * pages_per_sequence + 1, page_size)
    tables = PageTables(pool, num_slots=num_slots, pages_per_sequence=pages_per_sequence)
    runner = ModelRunner(model, tables)
    for tensor in (*runner.cache.keys, *runner.cache.values):
        tensor.fill_(7.0)
    for cells in range(page_size, 129, page_size):
        for slot in range(num_slots):
            tables.grow(slot, cells)
    return runner


def run(runner: ModelRunner, view: str, *spans: Span) -> list[Tensor]:
    """Run one forward; the logits of each span."""
    logits = runner.run(runner.lay_out(spans, view, token_budget=64), view).logits
    return list(logits[: sum(len(span.token_ids) for span in spans)].split([len(s.token_ids) for s in spans]))


def prefill(runner: ModelRunner, slot: int, token_ids: list[int], *, chunk: int = 13) -> None:
    for start in range(0, len(token_ids), chunk):
        run(runner, "ar", Span(slot, start, token_ids[start : start + chunk]))


def block(anchor: int, block_size: int) -> list[int]:
    return [anchor] + [MASK_TOKEN_ID] * (block_size - 1)


# The AR view is the backbone


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_ar_logits_equal_the_backbones_bit_for_bit(tied, length):
    input_ids = torch.tensor([tokens(length), tokens(length, seed=1)])
    expected = small_backbone(tied=tied)(input_ids).logits
    assert torch.equal(small_orthrus(tied=tied)(input_ids).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ar_logits_of_left_padded_prompts_equal_the_backbones_bit_for_bit(dtype):
    input_ids = torch.tensor([tokens(9), [0] * 4 + tokens(5)])
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :4] = 0
    expected = small_backbone(dtype=dtype)(input_ids, attention_mask=attention_mask).logits
    logits = small_orthrus(dtype=dtype)(input_ids, attention_mask=attention_mask).logits
    assert logits.dtype == dtype
    assert torch.equal(logits, expected)


def test_ar_logits_over_a_growing_cache_equal_the_backbones_bit_for_bit():
    def stepwise(model) -> Tensor:
        out = model(torch.tensor([tokens(5)]), use_cache=True)
        logits = [out.logits]
        for token_id in tokens(4, seed=2):
            out = model(torch.tensor([[token_id]]), past_key_values=out.past_key_values, use_cache=True)
            logits.append(out.logits)
        return torch.cat(logits, dim=1)

    assert torch.equal(stepwise(small_orthrus()), stepwise(small_backbone()))


def test_hidden_states_and_attention_weights_are_the_backbones():
    backbone = small_backbone(attn_implementation="eager")
    model = orthrus_core.add_diffusion_head(backbone, block_size=4, mask_token_id=MASK_TOKEN_ID)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    ours, theirs = (m(torch.tensor([tokens(6)]), **wanted) for m in (model, backbone))
    assert len(ours.hidden_states) == 3
    assert len(ours.attentions) == 2
    assert all(map(torch.equal, ours.hidden_states, theirs.hidden_states))
    assert all(map(torch.equal, ours.attentions, theirs.attentions))


@pytest.mark.parametrize("length", [1, 3, 31, 70])
def test_the_ar_view_through_the_paged_cache_gives_the_backbones_logits(length):
    ids = tokens(length)
    expected = small_backbone(num_layers=3, head_dim=12)(torch.tensor([ids])).logits[0]
    runner = runner_for(small_orthrus(num_layers=3, head_dim=12))
    chunks = [run(runner, "ar", Span(1, at, ids[at : at + 29]))[0] for at in range(0, length, 29)]
    torch.testing.assert_close(torch.cat(chunks), expected, **CLOSE)


def test_the_ar_view_through_the_paged_cache_keeps_to_the_sliding_window():
    shape = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    ids = tokens(17)
    expected = small_backbone(**shape)(torch.tensor([ids])).logits[0]
    assert not torch.allclose(expected, small_backbone()(torch.tensor([ids])).logits[0], **CLOSE)
    logits = run(runner_for(small_orthrus(**shape)), "ar", Span(0, 0, ids))[0]
    torch.testing.assert_close(logits, expected, **CLOSE)


# The diffusion view is what the description says


@pytest.mark.parametrize("shape", [{}, {"tied": False, "attention_bias": True, "head_dim": 12}])
def test_the_slow_reference_agrees_with_qwen3_on_the_ar_view(shape):
    backbone, ids = small_backbone(**shape), tokens(19)
    logits = backbone(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(logits, ar_logits(backbone, ids).float(), **CLOSE)


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 8, 16, 19])
@pytest.mark.parametrize("prefix_len", [0, 1, 5, 16, 37])
def test_a_drafted_block_equals_the_slow_reference(block_size, prefix_len):
    model = small_orthrus(noise=0.05, head_dim=12 if block_size % 2 else 16)
    prefix, block_ids = tokens(prefix_len), block(tokens(1, seed=3)[0], block_size)
    runner = runner_for(model)
    prefill(runner, 0, prefix)
    logits = run(runner, "diffusion", Span(0, prefix_len, block_ids))[0]
    torch.testing.assert_close(logits, diffusion_logits(model, prefix, block_ids).float(), **CLOSE)


def test_a_drafted_block_with_biases_and_an_untied_head_equals_the_slow_reference():
    model = small_orthrus(noise=0.05, tied=False, attention_bias=True, num_layers=3)
    prefix, block_ids = tokens(11), block(5, 6)
    runner = runner_for(model)
    prefill(runner, 1, prefix)
    logits = run(runner, "diffusion", Span(1, 11, block_ids))[0]
    torch.testing.assert_close(logits, diffusion_logits(model, prefix, block_ids).float(), **CLOSE)


@pytest.mark.parametrize("num_accepted", [0, 1, 4])
@pytest.mark.parametrize("next_block_size", [2, 5, 8])
def test_a_block_after_rejected_drafts_sees_nothing_of_them(num_accepted, next_block_size):
    model = small_orthrus(noise=0.05)
    text, rejected = tokens(23), tokens(8, seed=4)
    runner = runner_for(model)
    prefill(runner, 0, text[:9])
    run(runner, "diffusion", Span(0, 9, block(text[9], 8)))
    drafts = text[10 : 10 + num_accepted] + rejected[num_accepted:]
    run(runner, "ar", Span(0, 9, [text[9], *drafts]))
    anchor = 10 + num_accepted
    block_ids = block(text[anchor], next_block_size)
    logits = run(runner, "diffusion", Span(0, anchor, block_ids))[0]
    expected = diffusion_logits(model, text[:anchor], block_ids)
    torch.testing.assert_close(logits, expected.float(), **CLOSE)


def test_the_verify_pass_overwrites_what_the_draft_pass_wrote():
    model, text = small_orthrus(noise=0.05), tokens(20)
    runner = runner_for(model)
    prefill(runner, 0, text[:6])
    run(runner, "diffusion", Span(0, 6, block(text[6], 8)))
    logits = run(runner, "ar", Span(0, 6, text[6:15]))[0]
    torch.testing.assert_close(logits, ar_logits(model, text[:15])[6:].float(), **CLOSE)


def test_blocks_of_several_sequences_in_one_forward_do_not_see_each_other():
    model = small_orthrus(noise=0.05)
    prefixes, blocks = [tokens(14), tokens(3, seed=5)], [block(1, 5), block(2, 8)]
    runner = runner_for(model)
    for slot, prefix in enumerate(prefixes):
        prefill(runner, slot, prefix)
    spans = [Span(slot, len(prefixes[slot]), blocks[slot]) for slot in (1, 0)]
    for span, logits in zip(spans, run(runner, "diffusion", *spans), strict=True):
        expected = diffusion_logits(model, prefixes[span.slot], blocks[span.slot])
        torch.testing.assert_close(logits, expected.float(), **CLOSE)


def test_the_diffusion_view_of_an_empty_prefix_reads_no_ar_projection():
    model = small_orthrus()
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            getattr(layer.self_attn, name).weight.data.fill_(float("nan"))
    logits = run(runner_for(model), "diffusion", Span(0, 0, block(3, 8)))[0]
    assert logits.isfinite().all()


def test_a_block_of_one_row_through_a_fresh_head_is_the_ar_view():
    model = small_orthrus(noise=0.0)
    runner = runner_for(model)
    prefill(runner, 0, tokens(6))
    ar = run(runner, "ar", Span(0, 6, [4]))[0]
    assert torch.equal(run(runner, "diffusion", Span(0, 6, [4]))[0], ar)


def test_the_diffusion_view_without_a_place_for_its_keys_is_refused():
    with pytest.raises(ValueError, match="the diffusion view needs `attend`"):
        small_orthrus()(torch.tensor([[1, 2]]), view="diffusion")


# Configuration and registration


def test_importing_orthrus_core_makes_the_auto_classes_know_the_model():
    config = AutoConfig.for_model("orthrus", block_size=4, mask_token_id=3, vocab_size=11)
    assert type(config) is OrthrusConfig
    with torch.device("meta"):
        assert type(AutoModelForCausalLM.from_config(config)) is orthrus_core.OrthrusLM


def test_an_orthrus_model_is_a_qwen3_model():
    assert isinstance(small_orthrus(), Qwen3ForCausalLM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_token_id": None}, "config.mask_token_id is missing"),
        ({"mask_token_id": 97}, "config.mask_token_id must be inside the vocabulary of 97 entries, got 97"),
        ({"mask_token_id": -1}, "config.mask_token_id must be inside the vocabulary of 97 entries, got -1"),
        ({"mask_token_id": "96"}, "config.mask_token_id must be an integer, got '96'"),
        ({"block_size": 1}, "config.block_size must be >= 2, got 1"),
        ({"block_size": 8.0}, "config.block_size must be an integer, got 8.0"),
        ({"block_size": None}, "config.block_size must be an integer, got None"),
        ({"block_size": True}, "config.block_size must be an integer, got True"),
    ],
)
def test_a_config_whose_head_cannot_draft_is_refused(fields, message):
    config = OrthrusConfig(**{"vocab_size": 97, "mask_token_id": 96, "block_size": 8} | fields)
    with pytest.raises(CheckpointError) as caught:
        config.check_head()
    assert str(caught.value).startswith(message)
