from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import orthrus_core
from orthrus_core.models.model import OrthrusLM
from tests.orthrus_core.models.directories import save
from tests.small_models import small_orthrus

LOADERS: dict[str, Callable] = {
    "load_model": orthrus_core.load_model,
    "Auto": AutoModelForCausalLM.from_pretrained,
    "OrthrusLM": OrthrusLM.from_pretrained,
}


@pytest.fixture(params=LOADERS)
def load(request) -> Callable:
    return LOADERS[request.param]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save(small_orthrus(), tmp_path / "checkpoint")
