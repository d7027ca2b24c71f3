"""Reading the header of a GGUF file."""

import sys

import pytest

from orthrus_core.errors import ConfigError
from pipelines.models.gguf_file import read_gguf


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"accelerate: pip install 'orthrus-bulk\[real\]'"):
        read_gguf(tmp_path / "a.gguf")
