import platform

import pytest
import torch

from orthrus_core import Engine, EngineConfig
from orthrus_core.attention.choose import choose_backend, spec_of
from orthrus_core.attention.kernel import SOURCE, KernelShape, build_kernel, paged_attend
from orthrus_core.attention.rows import LINES
from orthrus_core.errors import ConfigError
from orthrus_core.native import KernelError, build_library
from tests.small_models import small_backbone, small_orthrus

FOR_ZEN_3 = ("-mno-avx512f", "-mtune=znver3")  # left to itself, GCC rounds products apart in some loops there
PAGES = {"keys": (32, 16), "values": (16, 32)}  # of a head of 32 numbers
SHAPE = KernelShape(head_dim=16, repeats=2, page_size=16, dtype=torch.float32)


def backend_of(model):
    sizes = {"page_size": 16, "max_context": 64}
    return choose_backend(spec_of(model.config, **sizes, device=model.device, dtype=model.dtype))


def test_a_kernel_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ORTHRUS_CACHE_DIR", str(tmp_path))
    path = build_kernel(SHAPE)
    assert path.startswith(str(tmp_path))
    monkeypatch.setattr("orthrus_core.native._compile", None)  # would fail if called
    assert build_kernel(SHAPE) == path


def test_another_shape_is_another_kernel():
    other = KernelShape(head_dim=16, repeats=2, page_size=16, dtype=torch.bfloat16)
    assert build_kernel(SHAPE) != build_kernel(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": torch.float16}, "dtype must be float32 or bfloat16, got torch.float16"),
        ({"head_dim": 20}, "head_dim must be a multiple of 16, got 20"),
        ({"page_size": 8}, "page_size must be a multiple of 16, got 8"),
    ],
)
def test_shapes_it_is_not_written_for_are_refused(changes, message):
    with pytest.raises(KernelError, match=message):
        build_kernel(KernelShape(**SHAPE.__dict__ | changes))


def test_a_compiler_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("ORTHRUS_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(KernelError, match="false failed"):
        build_kernel(SHAPE)
    assert not list(tmp_path.glob("kernels/*.so"))


def test_without_a_compiler_plain_attention_takes_over(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert backend_of(small_backbone()).name == "plain"
    assert "attention=plain, exact but slower" in caplog.text
    assert "no C++ compiler found: tried no-such-compiler" in caplog.text


def test_with_a_compiler_the_kernel_is_taken():
    assert backend_of(small_backbone()).name == "native"


def kernel_tensors() -> dict[str, torch.Tensor]:
    """Three rows of one sequence of a page, for the kernel of `SHAPE` with two K/V heads."""
    packed = torch.zeros(len(LINES), 3, dtype=torch.int64)
    packed[1] = packed[3] = packed[4] = torch.arange(3)
    return {
        "q": torch.randn(3, 4, 16),
        "k": torch.randn(3, 2, 16),
        "v": torch.randn(3, 2, 16),
        "keys": torch.zeros(2, 2, 16, 16),
        "values": torch.zeros(2, 2, 16, 16),
        "packed": packed,
        "page_tables": torch.ones(1, 1, dtype=torch.int64),
    }


def attend(**tensors) -> torch.Tensor:
    kernel = build_kernel(SHAPE)
    return paged_attend(**kernel_tensors() | tensors, scaling=1.0, window=0, softcap=0.0, kernel=kernel)


@pytest.mark.parametrize("name", kernel_tensors())
def test_a_tensor_of_another_dtype_does_not_reach_the_kernel(name):
    tensor = kernel_tensors()[name]
    other = torch.int32 if tensor.dtype == torch.int64 else torch.bfloat16
    with pytest.raises(ConfigError, match=f"attention needs {name} of {tensor.dtype} .*, got {other}"):
        attend(**{name: tensor.to(other)})


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("q", (3, 2, 16)),
        ("k", (2, 2, 16)),
        ("v", (3, 2, 8)),
        ("v", (3, 32)),
        ("keys", (2, 2, 8, 16)),
        ("values", (1, 2, 16, 16)),
        ("packed", (len(LINES), 2)),
        ("page_tables", (1,)),
    ],
)
def test_a_tensor_of_another_shape_does_not_reach_the_kernel(name, sizes):
    tensor = torch.zeros(sizes, dtype=kernel_tensors()[name].dtype)
    with pytest.raises(ConfigError, match=rf"attention needs {name} of .*, got {tensor.dtype} \({sizes[0]}"):
        attend(**{name: tensor})


@pytest.mark.parametrize("name", ["keys", "values", "packed"])
def test_pages_and_rows_that_are_not_contiguous_do_not_reach_the_kernel(name):
    tensor = kernel_tensors()[name]
    with pytest.raises(ConfigError, match=f"attention needs {name} contiguous"):
        attend(**{name: tensor.mT.contiguous().mT})


def test_rows_may_have_any_strides():
    tensors = kernel_tensors()
    expected = attend(**tensors)
    strided = {name: tensors[name].mT.contiguous().mT for name in "qkv"}
    fresh = {name: tensors[name].zero_() for name in ("keys", "values")}
    assert torch.equal(attend(**tensors | strided | fresh), expected)


def test_a_layer_of_another_dtype_is_named_before_anything_runs():
    model = small_orthrus()
    model.model.layers[1].self_attn.v_proj.register_forward_hook(lambda _, __, out: out.bfloat16())
    with pytest.raises(ConfigError, match=r"attention needs v of torch.float32 .* got torch.bfloat16"):
        Engine(model, EngineConfig(max_context=32))


def test_the_engine_does_not_run_under_autocast():
    engine = Engine(small_orthrus(), EngineConfig(max_context=32, self_check=False))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=r"leave torch\.autocast"):
        engine.generate([[1, 2, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("options", [(), FOR_ZEN_3] if platform.machine() == "x86_64" else [()])
def test_a_row_has_the_bits_that_it_has_alone_whoever_of_its_sequence_runs_beside_it(options, repeats, dtype):
    length, page, generator = 160, 16, torch.Generator().manual_seed(0)
    shape = KernelShape(head_dim=32, repeats=repeats, page_size=page, dtype=dtype)
    kernel = build_library("paged_attend", SOURCE, [*options, *shape.macros])
    sizes = {"q": repeats, "k": 1, "v": 1}
    rows = {
        name: torch.randn(length, count, 32, generator=generator).to(dtype) for name, count in sizes.items()
    }
    pages = {name: torch.zeros(12, 1, *size, dtype=dtype) for name, size in PAGES.items()}

    def run(first: int, count: int) -> torch.Tensor:
        positions = torch.arange(first, first + count)
        nothing = torch.zeros_like(positions)
        packed = torch.stack([nothing, page + positions, nothing, positions, positions])
        own = {name: tensor[positions] for name, tensor in rows.items()}
        tables = torch.arange(1, 12)[None].contiguous()
        own |= pages | {"packed": packed, "page_tables": tables}
        return paged_attend(**own, scaling=0.2, window=0, softcap=0.0, kernel=kernel)

    alone = torch.cat([run(position, 1) for position in range(length)])
    for count in range(2, 34):
        for first in range(0, length - count, 7):
            assert torch.equal(run(first, count), alone[first : first + count]), (first, count)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="has no such products to do without")
@pytest.mark.parametrize("without", ["-mno-avx512bf16", "-mno-avx512f"])
def test_a_processor_without_wide_vectors_or_bfloat16_products_gets_as_near_an_answer(without, monkeypatch):
    shape = KernelShape(head_dim=16, repeats=2, page_size=16, dtype=torch.bfloat16)
    tensors = {n: x.bfloat16() if x.is_floating_point() else x for n, x in kernel_tensors().items()}
    usual = build_kernel(shape)
    monkeypatch.setattr(KernelShape, "macros", (*shape.macros, without))
    outs = [
        paged_attend(**tensors, scaling=1.0, window=0, softcap=0.0, kernel=kernel)
        for kernel in (usual, build_kernel(shape))
    ]
    torch.testing.assert_close(*outs, atol=1e-2, rtol=1e-2)
