import itertools

import pytest
import torch
from transformers import Qwen3ForCausalLM

from orthrus_core.training.backbone import BackboneObjective, new_backbone
from orthrus_core.training.config import BackboneConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.packing import Document, collate
from orthrus_core.training.trainer import Trainer

CONFIG = BackboneConfig(
    hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_key_value_heads=2, head_dim=8
)
ROWS = [
    [Document([5, 6, 7], [8, 9, 2]), Document([3], [4, 2]), Document([11, 12], [13, 14, 15, 16, 2])],
    [Document([6], [7, 2])],
]


def small(seed: int = 0) -> Qwen3ForCausalLM:
    return new_backbone(CONFIG, vocab_size=20, eos_token_id=2, seed=seed)


def train(seed: int, num_tokens: int) -> tuple[Qwen3ForCausalLM, dict[str, float]]:
    model = small(seed)
    objective = BackboneObjective(model, CONFIG, precision="float32")
    batch = collate(ROWS, sequence_len=17)
    trainer = Trainer(
        objective,
        optimizer=OptimizerConfig(muon_lr=1e-2, adamw_lr=1e-2),
        loop=LoopConfig(max_tokens=num_tokens),
        held_out=[batch],
        save=lambda trainer: None,
    )
    return model, trainer.run(itertools.repeat(batch)).history[-1]


def test_packed_documents_have_the_loss_they_have_alone():
    model = small()
    objective = BackboneObjective(model, CONFIG, precision="float32")
    packed = objective.loss(collate(ROWS, sequence_len=17))
    model.set_attn_implementation("eager")
    total = 0.0
    for document in itertools.chain.from_iterable(ROWS):
        ids = torch.tensor([[*document.prompt_ids, *document.completion_ids]])
        labels = ids.clone()
        labels[0, : len(document.prompt_ids)] = -100
        total += model(ids, labels=labels).loss.item() * len(document.completion_ids)
    assert packed.weight.item() == 12
    assert packed.total.item() == pytest.approx(total, rel=1e-5)


def test_bfloat16_changes_the_loss_only_a_little():
    batch = collate(ROWS, sequence_len=17)
    exact, rounded = (
        BackboneObjective(small(), CONFIG, precision=precision).loss(batch).total.item()
        for precision in ("float32", "bfloat16")
    )
    assert rounded == pytest.approx(exact, rel=0.02)


def test_the_loss_of_a_learnt_batch_falls():
    start = BackboneObjective(small(), CONFIG, precision="float32").evaluate([collate(ROWS, sequence_len=17)])
    _, end = train(seed=0, num_tokens=20 * 60)
    assert end["loss"] < 0.3 * start["loss"]


def test_one_seed_gives_the_same_weights():
    first, second, other = (train(seed, num_tokens=100)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
