"""What ties training to inference, and what training leaves alone, on several backbones."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from orthrus_core.attention.rows import Span
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.training.anchors import sample_blocks
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, collate
from tests.live_bytes import LiveBytes
from tests.orthrus_core.models.backbones import with_head
from tests.small_models import MASK_TOKEN_ID

CLOSE = {"atol": 2e-4, "rtol": 2e-4}
CONFIG = HeadConfig(block_size=8, anchors_per_sequence=6, shorten_probability=0.3)
KINDS = ["qwen3", "qwen2", "llama-3.1", "mistral-window", "gemma2", "gemma3", "qwen3-moe"]
every_kind = pytest.mark.parametrize("name", KINDS)


def text(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(MASK_TOKEN_ID), k=count)


ROWS = [
    [Document(text(5, 1), text(17, 2)), Document([3], [4, 5]), Document(text(2, 3), text(9, 4))],
    [Document(text(3, 5), text(26, 6))],
]
BATCH = collate(ROWS, sequence_len=37)


def objective(model, *, precision: str = "float32", seed: int = 0, **options) -> HeadObjective:
    return HeadObjective(model, CONFIG.model_copy(update=options), precision=precision, seed=seed)


def prefix(row: int, anchor: int) -> list[int]:
    """Tokens of the anchor's document up to the anchor, counted along the packed row."""
    for document in ROWS[row]:
        if anchor < len(document):
            return [*document.prompt_ids, *document.completion_ids][: anchor + 1]
        anchor -= len(document)
    raise AssertionError("the anchor is in no document")


def engine_drafts(model, ids: list[int], num_drafts: int) -> Tensor:
    """Logits (num_drafts, V) that the engine drafts from: its cache, its spans, its draft forward."""
    tables = PageTables(PagePool(5, 16), num_slots=1, pages_per_sequence=4)
    tables.grow(0, 64)
    runner = ModelRunner(model, tables)
    anchor = len(ids) - 1
    for start in range(0, anchor, 13):
        span = Span(0, start, ids[start : min(start + 13, anchor)])
        runner.run(runner.lay_out([span], "ar", token_budget=16), "ar")
    sequence = SimpleNamespace(slot=0, num_committed=anchor, token_ids=ids)
    step = StepLayout.of([Work(sequence, 0, has_anchor=True, num_drafts=num_drafts)])
    rows = runner.lay_out(step.draft_spans(MASK_TOKEN_ID), "diffusion", token_budget=16)
    return runner.run(rows, "diffusion").logits[:num_drafts].clone()


@every_kind
@pytest.mark.parametrize("block_length", [2, 5, 8])
def test_training_sees_the_logits_that_the_engine_drafts_from(name, block_length):
    model = with_head(name, noise=0.1)
    blocks = sample_blocks(BATCH, num_anchors=5, block_size=8, generator=torch.Generator().manual_seed(0))
    blocks = blocks.shortened(block_length)
    head = objective(model)
    with torch.no_grad():
        logits = model.logits(head.draft(head.read(BATCH), blocks))
    for row, block in itertools.product(range(2), range(5)):
        if blocks.is_trained[row, block, 0]:
            ids = prefix(row, int(blocks.anchor_idx[row, block]))
            drafted = engine_drafts(model, ids, block_length)
            torch.testing.assert_close(logits[row, block, :block_length], drafted, **CLOSE)


@pytest.mark.parametrize("name", ["qwen3-moe", "gemma3"])
def test_the_engine_proposes_the_tokens_that_evaluation_counts(name):
    model = with_head(name, noise=0.1)
    blocks = sample_blocks(BATCH, num_anchors=4, block_size=8, generator=torch.Generator().manual_seed(1))
    head = objective(model)
    with torch.no_grad():
        slots = head._slots(read := head.read(BATCH), blocks, head.draft(read, blocks))
        choices = head._choices(slots.hidden).tolist()
    expected = []
    for row, block in itertools.product(range(2), range(4)):
        ids, count = prefix(row, int(blocks.anchor_idx[row, block])), int(blocks.is_trained[row, block].sum())
        expected += engine_drafts(model, ids, 8).argmax(-1)[:count].tolist() if count else []
    assert choices == expected


def train(head: HeadObjective, *, steps: int = 3) -> list[float]:
    """Plain gradient descent; the losses on the way."""
    losses = []
    for _ in range(steps):
        loss = head.loss(BATCH)
        mean = loss.total / loss.weight
        mean.backward()
        with torch.no_grad():
            for _, parameter in head.named_parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None
        losses.append(mean.item())
    return losses


@every_kind
def test_steps_change_every_tensor_of_the_head_and_no_bit_of_another(name):
    model = with_head(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(objective(model))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) == (DIFFUSION_SUFFIX not in key), key


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "qwen3-moe"])
def test_a_bf16_backbone_trains_fp32_head_tensors(name):
    exact = with_head(name, noise=0.05)
    mixed = with_head(name, noise=0.05)
    for key, parameter in mixed.named_parameters():
        if DIFFUSION_SUFFIX not in key:
            parameter.data = parameter.data.bfloat16()
    losses = [objective(exact).loss(BATCH), objective(mixed, precision="bfloat16").loss(BATCH)]
    means = [(loss.total / loss.weight) for loss in losses]
    assert means[1].item() == pytest.approx(means[0].item(), rel=0.1)
    for mean in means:
        mean.backward()
    directions = []
    for model in (exact, mixed):
        gradients = [p.grad for key, p in model.named_parameters() if DIFFUSION_SUFFIX in key]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        directions.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert torch.cosine_similarity(*directions, dim=0) > 0.97


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "qwen3-moe"])
def test_layers_computed_again_give_the_same_gradients(name):
    found = []
    for checkpoint_layers in (False, True):
        head = objective(with_head(name), checkpoint_layers=checkpoint_layers)
        head.loss(BATCH).total.backward()
        found.append([parameter.grad for _, parameter in head.named_parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


def test_layers_computed_again_hold_less_memory():
    def peak(**options) -> int:
        model = with_head("qwen3", num_hidden_layers=6)
        head = objective(model, loss_chunk_mib=1, **options)
        with LiveBytes() as live:
            head.loss(BATCH).total.backward()
        return live.peak

    assert peak(checkpoint_layers=True) < 0.5 * peak()


def test_the_model_is_as_before_once_the_diffusion_pass_is_over():
    head = objective(with_head("qwen3"), checkpoint_layers=True)
    head.loss(BATCH).total.backward()
    assert not any("forward" in vars(layer) for layer in head.module.model.layers)


@pytest.mark.slow
def test_a_compiled_head_has_the_same_gradients_and_is_compiled_once_per_view():
    model = with_head("llama", noise=0.05, num_hidden_layers=1)
    eager, compiled = objective(model), objective(model, checkpoint_layers=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled._forward = torch.compile(model.model, backend=counter)
    for _ in range(2):
        gradients = []
        for head in (eager, compiled):
            head.loss(BATCH).total.backward()
            gradients.append([parameter.grad.clone() for _, parameter in head.named_parameters()])
            model.zero_grad()
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert counter.frame_count == 2


def test_the_backbone_runs_once_per_batch_however_many_blocks_there_are():
    model = with_head("qwen3")
    views = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: views.append(kwargs["view"]), with_kwargs=True
    )
    head = objective(model)
    head.loss(BATCH)
    head.evaluate([BATCH])
    assert views == ["ar", "diffusion", "ar", "diffusion", "diffusion"]  # blocks of 4 and of 8


def test_a_restored_objective_draws_the_anchors_that_come_next():
    first, second = (objective(with_head("qwen3"), seed=seed) for seed in (0, 1))
    first.loss(BATCH)
    second.load_state_dict(first.state_dict())
    totals = [[head.loss(BATCH).total.item() for _ in range(3)] for head in (first, second)]
    assert totals[0] == totals[1]
    assert len(set(totals[0])) == 3
