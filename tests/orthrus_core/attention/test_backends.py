"""The fast backends against the slow one, and their bits against themselves."""

import pytest
import torch

from tests.orthrus_core.attention.rig import SCALING, Rig

BACKENDS = ["native", "plain"]
DTYPES = [torch.float32, torch.bfloat16]
CLOSE = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 1e-2, "rtol": 1e-2},  # one rounding of the output
}


@pytest.mark.parametrize("view", ["ar", "diffusion"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "Hkv", "Dh", "page_size"), [(6, 2, 16, 16), (4, 4, 48, 32), (8, 1, 128, 16)])
def test_the_kernel_equals_plain_attention_on_odd_sizes(view, window, dtype, H, Hkv, Dh, page_size):
    sizes = {"lengths": [300, 33, 5], "H": H, "Hkv": Hkv, "Dh": Dh, "page_size": page_size, "dtype": dtype}
    spans = [(0, 290, 299), (1, 0, 33), (2, 4, 5)]
    fast, slow = (
        Rig(name, **sizes).attend(spans, view=view, window=window, num_rows=64)
        for name in ("native", "plain")
    )
    for mine, its in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine, its, **CLOSE[dtype])


@pytest.mark.parametrize("view", ["ar", "diffusion"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_capped_scores_equal_those_of_plain_attention(view, window, dtype):
    fast, slow, plain = (
        torch.cat(
            Rig(name, lengths=[300, 33], dtype=dtype).attend(
                [(0, 290, 299), (1, 0, 33)], view=view, window=window, softcap=softcap, num_rows=64
            )
        )
        for name, softcap in (("native", 0.4), ("plain", 0.4), ("plain", None))
    )
    torch.testing.assert_close(fast, slow, **CLOSE[dtype])
    assert not torch.allclose(slow, plain, **CLOSE[dtype])


@pytest.mark.parametrize("view", ["ar", "diffusion"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("softcap", [None, 0.4])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_plain_attention_equals_dense_attention(view, window, softcap, page_size):
    rig = Rig("plain", lengths=[70, 9], H=6, Hkv=2, page_size=page_size)
    (out,) = rig.attend([(0, 60, 70)], view=view, window=window, softcap=softcap)
    q, k, v = (x.transpose(0, 1).double() for x in (rig.q[0][60:], rig.k[0], rig.v[0]))
    place, cells = torch.arange(60, 70)[:, None], torch.arange(70)
    seen = cells <= (place if view == "ar" else torch.full_like(place, 69))
    if window is not None:
        seen &= cells > place - window
    scores = q @ k.repeat_interleave(3, dim=0).transpose(1, 2) * SCALING
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    expected = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v.repeat_interleave(3, dim=0)
    torch.testing.assert_close(out, expected.transpose(0, 1).float(), **CLOSE[torch.float32])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_every_chunk_and_beside_any_neighbour(backend, dtype):
    rig = Rig(backend, lengths=[600, 600], dtype=dtype)
    for position in (3, 62, 64, 130, 255, 256, 599):
        (alone,) = rig.attend([(0, position, position + 1)])
        for other in (2, 70, 200, 599):
            beside = rig.attend([(1, other, other + 1), (0, position, position + 1)], num_rows=7)
            assert torch.equal(beside[1], alone), (position, other)
        start = max(0, position - 5)
        (chunk,) = rig.attend([(0, start, position + 1)])
        assert torch.equal(chunk[-1:], alone), position


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


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_a_later_row_of_a_block_leaves_the_earlier_ones_alone(dtype, window):
    rig = Rig("native", lengths=[300], dtype=dtype)
    (clean,) = rig.attend([(0, 250, 262)], window=window)
    for numbers in (rig.q, rig.k, rig.v):
        numbers[0][258:] = float("nan")
    (broken,) = rig.attend([(0, 250, 262)], window=window)
    assert torch.equal(broken[:8], clean[:8])
    assert broken[8:].isnan().all()


@pytest.mark.parametrize(("view", "window"), [("ar", None), ("ar", 100), ("diffusion", 100)])
def test_rows_have_the_same_bits_in_every_grouping(view, window):
    rig = Rig("native", lengths=[700], H=9, Hkv=3, Dh=64, dtype=torch.bfloat16)
    span = (0, 600, 640)
    (together,) = rig.attend([span], view=view, window=window)  # in groups of 20 rows
    try:
        torch.set_num_threads(16)  # in groups of three
        (apart,) = rig.attend([span], view=view, window=window)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(together, apart)


@pytest.mark.parametrize(
    ("H", "Hkv", "Dh", "dtype"),
    [(9, 3, 64, torch.bfloat16), (5, 1, 80, torch.float32), (2, 1, 256, torch.bfloat16)],
)
def test_a_long_context_equals_attention_in_double_precision(H, Hkv, Dh, dtype):
    rig = Rig("native", lengths=[530], H=H, Hkv=Hkv, Dh=Dh, dtype=dtype)
    (out,) = rig.attend([(0, 520, 530)], view="diffusion")
    q, k, v = (x.transpose(0, 1).double() for x in (rig.q[0][520:], rig.k[0], rig.v[0]))
    k, v = (x.repeat_interleave(H // Hkv, dim=0) for x in (k, v))
    expected = ((q @ k.transpose(1, 2) * SCALING).softmax(-1) @ v).transpose(0, 1)
    torch.testing.assert_close(out.double(), expected, **CLOSE[dtype])
