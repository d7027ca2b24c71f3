import pytest
import torch

from orthrus_core.errors import ConfigError
from orthrus_core.linear.choose import linear_backends


def names(asked: str, *, dtype: torch.dtype = torch.float32, device_type: str = "cpu") -> list[str]:
    return [backend.name for backend in linear_backends(asked, dtype=dtype, device_type=device_type)]


@pytest.mark.parametrize(
    ("asked", "expected"), [("auto", ["native", "plain"]), ("native", ["native"]), ("plain", ["plain"])]
)
def test_what_a_cpu_chooses_among(asked, expected):
    assert names(asked) == expected


def test_a_dtype_without_a_kernel_is_plain():
    assert names("auto", dtype=torch.float16) == ["plain"]


def test_a_device_without_a_kernel_is_plain():
    assert names("auto", device_type="mps") == ["plain"]


def test_without_a_compiler_it_is_plain(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert names("auto") == ["plain"]


def test_what_was_asked_for_and_cannot_be_had_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"linear: native cannot be had here: no C\+\+ compiler found"):
        names("native")


@pytest.mark.parametrize(("asked", "device_type"), [("triton", "cpu"), ("native", "cuda")])
def test_a_kernel_of_another_device_is_an_error(asked, device_type):
    with pytest.raises(ConfigError, match=f"linear: {asked} does not run on {device_type} devices: choose"):
        names(asked, device_type=device_type)
