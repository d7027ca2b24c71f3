"""The two forms of attention against one query at a time over the keys that plain loops let it see."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from orthrus_core.errors import ConfigError
from orthrus_core.models.attention import AttentionLayer
from orthrus_core.training.anchors import Blocks, sample_blocks
from orthrus_core.training.attend import MaskedAttention, Recording
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.flex import FlexAttention
from orthrus_core.training.head import HeadObjective, new_attention
from orthrus_core.training.masks import block_sight, text_sight
from orthrus_core.training.packing import Document, collate
from tests.orthrus_core.models.backbones import with_head
from tests.orthrus_core.training.sights import (
    build,
    document_of,
    slot_sees,
    slots_in_documents,
    text_sees,
)

H, HKV, DH, K = 4, 2, 8, 5
CASES = [  # layout, window, softcap
    ("one document", None, None),
    ("two documents and padding", 3, None),
    ("several rows of odd sizes", None, 1.5),
    ("several rows of odd sizes", 4, 1.5),
]
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture
def flex_on_cpu(monkeypatch):
    """Lets FlexAttention make gradients on a CPU: torch can, uncompiled, but refuses since it is slow.

    Uncompiled it still goes through dynamo, which must not take the shapes of test after test for dynamic.
    """
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=64):
        yield


@pytest.fixture(params=["masked", "flex"])
def form(request, flex_on_cpu):
    return MaskedAttention() if request.param == "masked" else FlexAttention(compiled=False)


def projections(B: int, N: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, H, N, DH), (B, HKV, N, DH), (B, HKV, N, DH)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def attend_to(q: Tensor, k: Tensor, v: Tensor, layer: AttentionLayer) -> Tensor:
    """One query (H, Dh) over keys (Hkv, n, Dh), head by head."""
    heads = []
    for head in range(H):
        scores = k[head * HKV // H] @ q[head] * layer.scaling
        if layer.softcap:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        heads.append(scores.softmax(0) @ v[head * HKV // H])
    return torch.stack(heads)


def draw(layout: str) -> Blocks:
    return sample_blocks(
        build(layout),
        num_anchors=3,
        block_size=K,
        shorten_probability=0.5,
        generator=torch.Generator().manual_seed(2),
    )


def check(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare values, and gradients of a sum that no two outputs weigh alike."""
    torch.testing.assert_close(found, expected, **CLOSE)
    weight = torch.linspace(-1, 1, found.numel()).view(found.shape)
    gradients = torch.autograd.grad((found * weight).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, **CLOSE)


@pytest.mark.parametrize(("layout", "window", "softcap"), CASES)
def test_the_text_attends_as_one_token_at_a_time(form, layout, window, softcap):
    layer = AttentionLayer(0, 0.4, window, softcap)
    batch = build(layout).padded(form.tile)
    q, k, v = inputs = projections(*batch.input_ids.shape, seed=0)
    out = form.over_text(text_sight(batch))(layer, q, k, v)
    found, expected = [], []
    for row, query in torch.cartesian_prod(*map(torch.arange, batch.input_ids.shape)).tolist():
        if document_of(layout, row, query):
            keys = sorted(text_sees(layout, row, query, window))
            found.append(out[row, query])
            expected.append(attend_to(q[row, :, query], k[row][:, keys], v[row][:, keys], layer))
    check(torch.stack(found), torch.stack(expected), inputs)


@pytest.mark.parametrize(("layout", "window", "softcap"), CASES)
def test_blocks_attend_as_one_slot_at_a_time(form, layout, window, softcap):
    layer = AttentionLayer(0, 0.4, window, softcap)
    batch, blocks = build(layout).padded(form.tile), draw(layout)
    slots = blocks.in_block[0].numel()
    sight = block_sight(batch, blocks, num_slots=slots + -slots % form.tile)
    q, k, v = inputs = projections(*sight.place.shape, seed=1)
    _, text_k, text_v = (x.detach() for x in projections(*batch.input_ids.shape, seed=2))
    out = form.over_blocks({0: (text_k, text_v)}, sight, K)(layer, q, k, v)
    found, expected = [], []
    for row, block, slot in slots_in_documents(layout, blocks):
        text, own = (sorted(keys) for keys in slot_sees(layout, blocks, row, block, slot, window))
        own = [block * K + other for other in own]
        keys = torch.cat([text_k[row][:, text], k[row][:, own]], dim=1)
        values = torch.cat([text_v[row][:, text], v[row][:, own]], dim=1)
        found.append(out[row, block * K + slot])
        expected.append(attend_to(q[row, :, block * K + slot], keys, values, layer))
    check(torch.stack(found), torch.stack(expected), inputs)


def test_the_layers_keys_and_values_are_recorded():
    batch = build("one document")
    q, k, v = projections(*batch.input_ids.shape, seed=0)
    record = Recording(MaskedAttention().over_text(text_sight(batch)))
    for layer_idx in (0, 1):
        record(AttentionLayer(layer_idx, 0.4), q, k + layer_idx, v)
    assert torch.equal(record.recorded[1][0], k + 1)
    assert record.recorded[0][1] is v


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral-window"])
def test_the_loss_of_a_head_and_its_gradient_are_the_same_in_both_forms(flex_on_cpu, name):
    rows = [
        [Document([5, 6, 7], [8, 9, 2, 30, 31]), Document([3], [4, 2])],
        [Document([6], list(range(40, 52)))],
    ]
    found = []
    for form in (MaskedAttention(), FlexAttention({None, 6}, compiled=False)):
        config = HeadConfig(block_size=5, anchors_per_sequence=3, shorten_probability=0.5)
        head = HeadObjective(with_head(name, noise=0.05), config, precision="float32", seed=1)
        head._attention = form
        loss = head.loss(collate(rows, sequence_len=15))
        loss.total.backward()
        found.append([loss.total.detach(), *(parameter.grad for _, parameter in head.named_parameters())])
    for masked, flex in zip(*found, strict=True):
        torch.testing.assert_close(masked, flex, atol=2e-4, rtol=1e-3)


def test_flex_on_a_cpu_is_refused_and_auto_writes_it_out():
    model = with_head("llama")
    assert isinstance(new_attention(model, HeadConfig()), MaskedAttention)
    with pytest.raises(ConfigError, match=r"head.attention flex needs a CUDA device, got cpu: use auto"):
        new_attention(model, HeadConfig(attention="flex"))


@pytest.mark.gpu
@pytest.mark.parametrize(("layout", "window", "softcap"), CASES)
def test_compiled_kernels_equal_the_written_out_form(layout, window, softcap):
    layer, device = AttentionLayer(0, 0.4, window, softcap), torch.device("cuda")
    batch, blocks = build(layout).padded(128).to(device), draw(layout).to(device)
    used = blocks.in_block[0].numel()
    generator = torch.Generator(device).manual_seed(0)
    shapes = [(len(batch.input_ids), heads, 128, 64) for heads in (H, HKV, HKV, HKV, HKV)]
    q, k, v, *text = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
    own = [tensor.requires_grad_() for tensor in (q, k, v)]
    flex = FlexAttention().over_blocks({0: tuple(text)}, block_sight(batch, blocks, num_slots=128), K)
    masked = MaskedAttention().over_blocks({0: tuple(text)}, block_sight(batch, blocks), K)
    outs = [flex(layer, *own)[:, :used], masked(layer, *(tensor[:, :, :used] for tensor in own))]
    outs = [out[blocks.in_block.flatten(1)] for out in outs]
    torch.testing.assert_close(*outs, atol=5e-3, rtol=5e-3)
    for gradients in zip(*(torch.autograd.grad(out.sin().sum(), own) for out in outs), strict=True):
        torch.testing.assert_close(*gradients, atol=1e-2, rtol=1e-2)
