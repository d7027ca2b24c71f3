"""Where torch keeps what it compiles."""

import os

import pytest

from orthrus_core.compilation.compiler import CACHE_VARIABLE, keep_compiled_code
from orthrus_core.disk_cache import processor_key


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ORTHRUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(CACHE_VARIABLE, "")  # so that it is restored
    monkeypatch.delenv(CACHE_VARIABLE)


def test_compiled_code_is_kept_in_the_users_cache_by_processor(tmp_path):
    keep_compiled_code()
    assert os.environ[CACHE_VARIABLE] == f"{tmp_path}/cache/inductor/{processor_key()}"
    assert os.path.isdir(os.environ[CACHE_VARIABLE])


def test_a_place_that_the_user_named_stays(monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "/elsewhere")
    keep_compiled_code()
    assert os.environ[CACHE_VARIABLE] == "/elsewhere"


def test_where_the_cache_cannot_be_made_torch_chooses(tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    keep_compiled_code()
    assert CACHE_VARIABLE not in os.environ
