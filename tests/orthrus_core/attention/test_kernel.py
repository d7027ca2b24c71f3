import pytest
import torch

from orthrus_core.attention.choose import choose_backend, spec_of
from orthrus_core.attention.kernel import KernelError, KernelShape, build_kernel
from tests.small_models import small_backbone

SHAPE = KernelShape(head_dim=16, repeats=2, page_size=16, dtype=torch.float32)


def backend_of(model):
    sizes = {"page_size": 16, "max_context": 64}
    return choose_backend(spec_of(model.config, **sizes, device=model.device, dtype=model.dtype))


def test_a_kernel_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ORTHRUS_CACHE_DIR", str(tmp_path))
    path = build_kernel(SHAPE)
    assert path.startswith(str(tmp_path))
    monkeypatch.setattr("orthrus_core.attention.kernel._compile", None)  # would fail if called
    assert build_kernel(SHAPE) == path


def test_another_shape_is_another_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("ORTHRUS_CACHE_DIR", str(tmp_path))
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
