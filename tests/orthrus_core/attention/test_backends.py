"""The fast backends against the slow one, and their bits against themselves."""

import pytest
import torch

from orthrus_core.attention.tiles import AttentionShapes
from tests.orthrus_core.attention.rig import Rig

BACKENDS = ["native", "tiled"]
DTYPES = [torch.float32, torch.bfloat16]
CLOSE = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 1e-2, "rtol": 1e-2},  # one rounding of the output, and of the weights in tiled
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", ["ar", "diffusion"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "Hkv", "Dh", "page_size"), [(6, 2, 16, 16), (4, 4, 48, 32), (8, 1, 128, 16)])
def test_equals_the_reference_on_odd_sizes(backend, view, window, dtype, H, Hkv, Dh, page_size):
    sizes = {"lengths": [300, 33, 5], "H": H, "Hkv": Hkv, "Dh": Dh, "page_size": page_size, "dtype": dtype}
    spans = [(0, 290, 299), (1, 0, 33), (2, 4, 5)]
    fast, slow = (
        Rig(name, **sizes).attend(spans, view=view, window=window, num_rows=64)
        for name in (backend, "reference")
    )
    for mine, its in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine, its, **CLOSE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", ["ar", "diffusion"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_capped_scores_equal_the_reference(backend, view, window, dtype):
    fast, slow, plain = (
        torch.cat(
            Rig(name, lengths=[300, 33], dtype=dtype).attend(
                [(0, 290, 299), (1, 0, 33)], view=view, window=window, softcap=softcap, num_rows=64
            )
        )
        for name, softcap in ((backend, 0.4), ("reference", 0.4), ("reference", None))
    )
    torch.testing.assert_close(fast, slow, **CLOSE[dtype])
    assert not torch.allclose(slow, plain, **CLOSE[dtype])


@pytest.mark.parametrize("page_size", [1, 4])
def test_tiled_attention_takes_small_pages(page_size):
    fast, slow = (
        Rig(name, lengths=[70, 9], page_size=page_size).attend([(0, 60, 70), (1, 3, 9)])
        for name in ("tiled", "reference")
    )
    torch.testing.assert_close(torch.cat(fast), torch.cat(slow), **CLOSE[torch.float32])


def test_the_portable_tile_arithmetic_equals_the_fused_one(monkeypatch):
    rig = Rig("tiled", lengths=[300])
    (fused,) = rig.attend([(0, 250, 270)])
    monkeypatch.setattr("orthrus_core.attention.tiled.FUSED_DEVICES", ())
    (portable,) = rig.attend([(0, 250, 270)])
    torch.testing.assert_close(portable, fused, **CLOSE[torch.float32])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_every_chunk_and_beside_any_neighbour(backend, dtype):
    rig = Rig(backend, lengths=[600, 600], dtype=dtype)
    widths = rig.backend.shapes.query_widths if backend == "tiled" else (None,)
    for position in (3, 62, 64, 130, 255, 256, 599):
        (alone,) = rig.attend([(0, position, position + 1)])
        for width in widths:
            if width is not None:
                rig.backend.shapes = AttentionShapes((width,))
            for other in (2, 70, 200, 599):
                beside = rig.attend([(1, other, other + 1), (0, position, position + 1)], num_rows=7)
                assert torch.equal(beside[1], alone), (position, width, other)
            start = max(0, position - 5)
            (chunk,) = rig.attend([(0, start, position + 1)])
            assert torch.equal(chunk[-1:], alone), (position, width)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_diffusion_row_has_the_same_bits_whatever_the_other_blocks(backend):
    rig = Rig(backend, lengths=[600, 600])
    (alone,) = rig.attend([(0, 400, 406)], view="diffusion")
    beside = rig.attend([(1, 100, 131), (0, 400, 406)], view="diffusion", num_rows=64)
    assert torch.equal(beside[1], alone)


def test_garbage_past_the_limit_is_never_read_by_the_kernel():
    rig = Rig("native", lengths=[40])
    (clean,) = rig.attend([(0, 20, 21)])
    for pages in (rig.cache.keys[0], rig.cache.values[0]):
        pages[int(rig.tables.pages[0, 1])][..., 5:].fill_(float("nan"))  # keys of cells 21 to 31
    rig.cache.values[0][int(rig.tables.pages[0, 1])][:, 5:].fill_(float("nan"))
    rig.cache.values[0][int(rig.tables.pages[0, 1])][:, :5] = rig.v[0][16:21].transpose(0, 1)
    assert torch.equal(rig.attend([(0, 20, 21)])[0], clean)


def test_nan_in_a_seen_cell_reaches_the_output():
    rig = Rig("native", lengths=[40])
    rig.k[0][7] = float("nan")
    rig.attend([(0, 0, 16)])
    assert rig.attend([(0, 20, 21)])[0].isnan().all()
