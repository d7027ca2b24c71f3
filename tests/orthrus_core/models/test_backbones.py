"""What every architecture is promised, on random models of each."""

import copy
import itertools
import json
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

import orthrus_core
from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.attention.rows import Span
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.head import add_diffusion_head, remove_diffusion_head
from orthrus_core.models.trial import TESTED_BACKBONES
from orthrus_core.training.anchors import sample_blocks
from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, collate
from orthrus_core.training.trainer import Trainer
from tests.orthrus_core.models.backbones import BACKBONES, new_backbone, with_head
from tests.orthrus_core.models.directories import assert_same_bits
from tests.small_models import MASK_TOKEN_ID

CLOSE = {"atol": 2e-4, "rtol": 2e-4}
CONFIG = {"max_sequences": 3, "max_context": 96, "token_budget": 32, "page_size": 16, "compile": "off"}

every_backbone = pytest.mark.parametrize("name", BACKBONES)


def tokens(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(MASK_TOKEN_ID), k=count)


def new_runner(model) -> ModelRunner:
    """A runner with one sequence of 64 cells, which hold garbage."""
    pool = PagePool(5, 16)
    tables = PageTables(pool, num_slots=1, pages_per_sequence=4, num_branches=1, cells_per_branch=8)
    tables.grow(0, 64)
    runner = ModelRunner(model, tables)
    for tensor in (*runner.cache.keys, *runner.cache.values):
        tensor.fill_(7.0)
    return runner


def run(runner: ModelRunner, view: str, start: int, ids: list[int]) -> Tensor:
    """Logits (N, V) of one span in a forward of 16 rows."""
    rows = runner.lay_out([Span(0, start, ids)], view, token_budget=16)
    return runner.run(rows, view).logits[: len(ids)].clone()


def ar_view(model, ids: list[int]) -> Tensor:
    """Logits (N, V) of the AR view through the paged cache, in chunks."""
    runner = new_runner(model)
    return torch.cat([run(runner, "ar", start, ids[start : start + 13]) for start in range(0, len(ids), 13)])


def drafts(model, ids: list[int], *, block_size: int) -> Tensor:
    """Logits (K, V) of the block anchored at the last of `ids`."""
    runner = new_runner(model)
    anchor = len(ids) - 1
    for start in range(0, anchor, 13):
        run(runner, "ar", start, ids[start : min(start + 13, anchor)])
    return run(runner, "diffusion", anchor, [ids[-1], *[MASK_TOKEN_ID] * (block_size - 1)])


def drafts_beside(model, ids: list[int], *, block_size: int, num_verified: int) -> Tensor:
    """The same logits, in a forward that also verifies the tokens up to the last of `ids`."""
    runner = new_runner(model)
    anchor = len(ids) - 1
    for start in range(0, anchor - num_verified, 13):
        run(runner, "ar", start, ids[start : min(start + 13, anchor - num_verified)])
    [line], copies = runner.tables.branch(np.array([0]), np.array([anchor]))
    verified = Span(0, anchor - num_verified, ids[anchor - num_verified :])
    ar = runner.lay_out([verified], "ar", token_budget=16)
    block = Span(int(line), anchor, [ids[-1], *[MASK_TOKEN_ID] * (block_size - 1)])
    blocks = runner.lay_out([block], "diffusion", token_budget=16)
    return runner.read_both(ar, runner.forward_both(ar, blocks, copies)).logits[16 : 16 + block_size].clone()


def completions(model, mode: str, params: SamplingParams) -> list[tuple]:
    engine = Engine(model, EngineConfig(mode=mode, **CONFIG))
    assert engine.exactness == "exact"
    prompts = [tokens(count, seed=count) for count in (1, 9, 20, 33)]
    found = engine.generate(prompts, params)
    return [(c.error, c.token_ids, c.stats.logprob, c.logprobs) for c in found]


def test_every_tested_architecture_is_here():
    assert {model_type for model_type, _ in BACKBONES.values()} == set(TESTED_BACKBONES)


# The AR view


@every_backbone
def test_the_ar_view_through_the_paged_cache_is_transformers_model(name):
    ids = tokens(40)
    expected = new_backbone(name)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(ar_view(with_head(name), ids), expected, **CLOSE)


@every_backbone
def test_without_attend_the_forward_is_transformers_own_bit_for_bit(name):
    ids = torch.tensor([tokens(20), tokens(20, seed=1)])
    assert torch.equal(with_head(name)(ids).logits, new_backbone(name)(ids).logits)


@every_backbone
def test_a_block_beside_the_rows_it_follows_says_what_it_says_alone(name):
    model, ids = with_head(name), tokens(37)
    expected = drafts(model, ids, block_size=8)
    torch.testing.assert_close(drafts_beside(model, ids, block_size=8, num_verified=5), expected, **CLOSE)


@pytest.mark.parametrize("name", [name for name in BACKBONES if "window" in name or "gemma" in name])
def test_the_window_of_the_random_model_matters(name):
    ids = torch.tensor([tokens(40)])
    wide = {"sliding_window": 100}
    assert not torch.allclose(new_backbone(name)(ids).logits, new_backbone(name, **wide)(ids).logits, **CLOSE)


@pytest.mark.parametrize("field", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_the_softcaps_of_the_random_model_matter(field):
    ids = torch.tensor([tokens(40)])
    plain = new_backbone("gemma2", **{field: None})(ids).logits
    assert not torch.allclose(new_backbone("gemma2")(ids).logits, plain, **CLOSE)


# Decoding


@every_backbone
def test_consensus_text_and_log_probabilities_are_those_of_ar_bit_for_bit(name):
    model = with_head(name)
    params = SamplingParams(max_new_tokens=24, ignore_eos=True, logprobs=True)
    assert completions(model, "consensus", params) == completions(model, "autoregressive", params)


@every_backbone
def test_sampled_consensus_text_in_bf16_is_that_of_ar_bit_for_bit(name):
    model = with_head(name, dtype=torch.bfloat16)
    params = SamplingParams(max_new_tokens=16, ignore_eos=True, temperature=0.9, top_k=30, seed=3)
    assert completions(model, "consensus", params) == completions(model, "autoregressive", params)


@every_backbone
def test_generate_with_the_engine_gives_the_tokens_of_transformers_generate(name):
    model, ids = with_head(name), torch.tensor([tokens(11)])
    expected = new_backbone(name).generate(ids, max_new_tokens=20, do_sample=False)
    out = model.generate(ids, max_new_tokens=20, use_diffusion_mode=True)
    assert out.tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["qwen2-window", "llama-3.1", "mistral-window", "gemma2", "gemma3", "qwen3-moe"]
)
def test_compiled_consensus_is_compiled_ar_bit_for_bit(name):
    model = with_head(name)
    found = []
    for mode in ("consensus", "autoregressive"):
        engine = Engine(model, EngineConfig(mode=mode, **CONFIG | {"compile": "on"}))
        assert engine.report()["compiled"]
        assert engine.exactness == "exact"
        params = SamplingParams(max_new_tokens=24, ignore_eos=True)
        found.append(
            [(c.token_ids, c.stats.logprob) for c in engine.generate([tokens(9), tokens(20)], params)]
        )
    assert found[0] == found[1]


# Training


DOCUMENTS = [[Document(tokens(6, seed), tokens(18, seed + 10)), Document([3], [4, 5])] for seed in range(3)]
HEAD = HeadConfig(block_size=4, anchors_per_sequence=6, rows_per_chunk=16)


@every_backbone
def test_training_lowers_the_loss_and_changes_the_head_alone(name):
    model = with_head(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    objective = HeadObjective(model, HEAD, precision="float32", seed=0)
    batch = collate(DOCUMENTS, sequence_len=28)
    first = objective.evaluate([batch])["loss"]
    trainer = Trainer(
        objective,
        optimizer=OptimizerConfig(muon_lr=2e-2, adamw_lr=4e-3),
        loop=LoopConfig(max_tokens=27 * 3 * 8, precision="float32"),
        held_out=[batch],
        save=lambda trainer: None,
    )
    trainer.run(itertools.repeat(batch))
    assert objective.evaluate([batch])["loss"] < 0.8 * first
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if "_diff" in key}


@every_backbone
def test_the_diffusion_view_is_the_same_in_training_and_in_the_engine(name):
    model, batch = with_head(name, noise=0.1), collate(DOCUMENTS, sequence_len=28)
    objective = HeadObjective(model, HEAD, precision="float32", seed=0)
    blocks = sample_blocks(batch, num_anchors=4, block_size=4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained = model.logits(objective.draft(objective.read(batch), blocks)[blocks.is_trained])
    drafted = []
    for row, column in itertools.product(range(len(DOCUMENTS)), range(4)):
        place = int(blocks.anchor_idx[row, column])
        document, start = (DOCUMENTS[row][0], 0) if place < 24 else (DOCUMENTS[row][1], 24)
        ids = [*document.prompt_ids, *document.completion_ids]
        logits = drafts(model, ids[: place - start + 1], block_size=4)
        drafted.append(logits[blocks.is_trained[row, column]])
    torch.testing.assert_close(torch.cat(drafted), trained, **CLOSE)


# Checkpoints


@every_backbone
def test_a_saved_model_names_its_backbone_and_loads_with_the_same_bits(name, tmp_path):
    model = with_head(name)
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["model_type"], fields["backbone_type"]) == ("orthrus", BACKBONES[name][0])
    ids = torch.tensor([tokens(20)])
    for load in (orthrus_core.load_model, AutoModelForCausalLM.from_pretrained):
        loaded = load(tmp_path)
        assert type(loaded) is type(model)
        assert_same_bits(loaded, model)
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@every_backbone
def test_every_projection_of_the_head_has_its_own_tensors_beside_the_backbones(name, tmp_path):
    backbone = new_backbone(name)
    state = add_diffusion_head(backbone, block_size=4, mask_token_id=96).state_dict()
    own = {key for key in state if "_diff" not in key}
    twins = {key.replace("_diff", "") for key in state if "_diff" in key}
    assert own == backbone.state_dict().keys()
    assert twins == {key for key in own if ".self_attn." in key}


@every_backbone
def test_without_its_head_the_model_is_the_backbone_again(name, tmp_path):
    backbone = new_backbone(name)
    plain = remove_diffusion_head(with_head(name))
    assert type(plain) is type(backbone)
    assert plain.config.to_dict() == backbone.config.to_dict() | {"dtype": "float32"}
    assert_same_bits(plain, backbone)
    plain.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as tensors:
        assert not [key for key in tensors.keys() if "_diff" in key]  # noqa: SIM118


@every_backbone
def test_a_plain_checkpoint_gets_an_untrained_head_where_none_is_needed(name, tmp_path, capfd):
    backbone = new_backbone(name)
    backbone.save_pretrained(tmp_path)
    capfd.readouterr()
    loaded = orthrus_core.load_model(tmp_path, needs_head=False)
    assert "MISSING" not in "".join(capfd.readouterr())
    assert_same_bits(loaded, add_diffusion_head(backbone, block_size=2, mask_token_id=96))


@every_backbone
def test_a_copy_of_a_model_shares_nothing_with_it(name):
    model = with_head(name)
    expected = ar_view(model, tokens(20))
    other = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(ar_view(other, tokens(20)), expected)
