import itertools

import pytest
import torch
from torch import Tensor

from orthrus_core.errors import ConfigError
from orthrus_core.models.model import OrthrusLM
from orthrus_core.models.weights import quantise
from orthrus_core.training.anchors import Blocks, sample_blocks
from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective, TrainedSlots
from orthrus_core.training.packing import Document, PackedBatch, collate
from orthrus_core.training.trainer import Trainer
from tests.small_models import MASK_TOKEN_ID, small_orthrus

CONFIG = HeadConfig(block_size=4, anchors_per_sequence=6, rows_per_chunk=5)
DOCUMENTS = [
    [Document([5, 6, 7], [8, 9, 2, 30, 31]), Document([3], [4, 2]), Document([11, 12], [13, 14, 15, 16, 2])],
    [Document([6], list(range(40, 52)))],
]


def batch() -> PackedBatch:
    return collate(DOCUMENTS, sequence_len=21)


def objective(model: OrthrusLM, config: HeadConfig = CONFIG, seed: int = 0) -> HeadObjective:
    return HeadObjective(model, config, precision="float32", seed=seed)


def run_views(model: OrthrusLM, packed: PackedBatch, blocks: Blocks) -> TrainedSlots:
    head = objective(model)
    text = head.read(packed)
    return head._slots(text, blocks, head.draft(text, blocks))


class DenseAttend:
    """Plain attention of one block: `past` keys of one document, then its own, all visible or causal."""

    def __init__(self, past: dict[int, tuple[Tensor, Tensor]] | None = None):
        self.past = past
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer, q, k, v):
        self.seen[layer.layer_idx] = (k, v)
        causal = self.past is None
        if not causal:
            past_k, past_v = self.past[layer.layer_idx]
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k.transpose(-1, -2) * layer.scaling
        if causal:
            scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
        return (scores.softmax(-1) @ v).transpose(1, 2)


def run(model, ids, positions, view, attend) -> Tensor:
    return model.model(
        torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        attention_mask={"full_attention": None},
        use_cache=False,
        view=view,
        attend=attend,
    ).last_hidden_state[0]


def dense_slots(model: OrthrusLM, packed: PackedBatch, blocks: Blocks) -> TrainedSlots:
    """Every trained slot computed on its own document alone, one block at a time."""
    hidden, teacher, targets, offsets = [], [], [], []
    for row, anchor in itertools.product(range(len(DOCUMENTS)), range(blocks.anchor_idx.shape[1])):
        if not blocks.is_trained[row, anchor].any():
            continue
        place, start = int(blocks.anchor_idx[row, anchor]), 0
        for document in DOCUMENTS[row]:
            if place < start + len(document):
                break
            start += len(document)
        ids, p = [*document.prompt_ids, *document.completion_ids], place - start
        ar = DenseAttend()
        ar_hidden = run(model, ids, range(len(ids)), "ar", ar)
        length = int(blocks.in_block[row, anchor].sum())
        past = {layer: (k[:, :, :p], v[:, :, :p]) for layer, (k, v) in ar.seen.items()}
        block = [ids[p], *[MASK_TOKEN_ID] * (length - 1)]
        block_hidden = run(model, block, range(p, p + length), "diffusion", DenseAttend(past))
        for i in range(length):
            if p + i + 1 < len(ids):
                hidden.append(block_hidden[i])
                teacher.append(ar_hidden[p + i])
                targets.append(ids[p + i + 1])
                offsets.append(i)
    weights = CONFIG.slot_decay ** torch.tensor(offsets)
    return TrainedSlots(torch.stack(hidden), torch.stack(teacher), torch.tensor(targets), weights)


@pytest.mark.parametrize("shorten_probability", [0.0, 0.6])
def test_packed_blocks_equal_every_block_run_alone(shorten_probability):
    model = small_orthrus(noise=0.05)
    blocks = sample_blocks(
        batch(),
        num_anchors=6,
        block_size=4,
        shorten_probability=shorten_probability,
        generator=torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        slots = run_views(model, batch(), blocks)
        expected = dense_slots(model, batch(), blocks)
    assert slots.target_ids.tolist() == expected.target_ids.tolist()
    torch.testing.assert_close(slots.weights, expected.weights)
    torch.testing.assert_close(slots.hidden, expected.hidden, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slots.teacher_hidden, expected.teacher_hidden, atol=1e-4, rtol=1e-4)


def test_what_another_document_says_changes_nothing():
    model = small_orthrus(noise=0.05)
    changed = collate(
        [[DOCUMENTS[0][0], Document([90], [91, 92]), DOCUMENTS[0][2]], DOCUMENTS[1]], sequence_len=21
    )
    blocks = sample_blocks(batch(), num_anchors=6, block_size=4, generator=torch.Generator().manual_seed(1))
    place = blocks.slot_idx[blocks.is_trained]
    elsewhere = (place < 8) | (place >= 11)
    with torch.no_grad():
        before, after = (run_views(model, b, blocks).hidden for b in (batch(), changed))
    assert torch.equal(before[elsewhere], after[elsewhere])


def test_gradients_reach_the_head_and_nothing_else():
    model = small_orthrus()
    objective(model).loss(batch()).total.backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if "_diff" in name}
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "_diff" in name)


def train(config: HeadConfig = CONFIG, seed: int = 0, num_tokens: int = 33 * 40):
    model = small_orthrus(noise=0.0)
    head = objective(model, config, seed)
    start = head.evaluate([batch()])
    trainer = Trainer(
        head,
        optimizer=OptimizerConfig(muon_lr=2e-2, adamw_lr=4e-3),
        loop=LoopConfig(max_tokens=num_tokens),
        held_out=[batch()],
        save=lambda trainer: None,
    )
    return model, start, trainer.run(itertools.repeat(batch())).history[-1]


def test_training_leaves_the_backbone_bit_for_bit_and_moves_every_head_tensor():
    before = small_orthrus(noise=0.0).state_dict()
    after = train(num_tokens=33 * 3)[0].state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("_diff" not in name), name


@pytest.mark.parametrize("loss", ["forward_kl", "cross_entropy"])
def test_the_loss_of_a_learnt_batch_falls(loss):
    _, start, end = train(CONFIG.model_copy(update={"loss": loss}))
    assert end["loss"] < 0.5 * start["loss"]


def test_one_seed_gives_the_same_head():
    first, second, other = (train(seed=seed, num_tokens=100)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_evaluation_is_repeatable_and_names_acceptance_by_position():
    head = objective(small_orthrus())
    figures = head.evaluate([batch()])
    head.loss(batch())
    assert head.evaluate([batch()]) == figures
    assert set(figures) == {"loss", "acceptance_length", *(f"accepted_at_{i}" for i in range(1, 5))}


def test_an_evaluation_ends_with_the_batch_that_has_enough_anchors():
    few = objective(small_orthrus(), CONFIG.model_copy(update={"evaluation_anchors": 1}))
    enough = objective(small_orthrus(), CONFIG)
    assert few.evaluate([batch(), batch()]) == enough.evaluate([batch()])
    assert few.evaluate([batch()]) != enough.evaluate([batch(), batch()])


def test_blocks_are_evaluated_at_their_length_and_not_cut_afterwards():
    # With 3 masks beside it and not 7 a draft is another one.
    model = small_orthrus(noise=0.3, sameness=0.5)
    long, short = (
        objective(model, CONFIG.model_copy(update={"block_size": size})).evaluate([batch()])
        for size in (8, 4)
    )
    chances = torch.tensor([long[f"accepted_at_{i}"] for i in range(1, 5)])
    cut_afterwards = 1 + chances.cumprod(0).sum().item()
    assert long["acceptance_length_at_4"] == pytest.approx(short["acceptance_length"])
    assert abs(long["acceptance_length_at_4"] - cut_afterwards) > 0.1


def test_weights_of_bytes_are_not_trained():
    model = small_orthrus()
    quantise(model, "fp8")
    with pytest.raises(ConfigError, match="bytes take no gradient: train on the model as it is"):
        objective(model)
