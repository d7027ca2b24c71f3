import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import orthrus_core
from orthrus_core.errors import ConfigError
from pipelines.train.config import TrainConfig, load_train_config
from pipelines.train.data import task_stream
from pipelines.train.job import train

ROOT = Path(__file__).parents[3]
TOKENIZER = ROOT / "pipelines" / "demo" / "model"
SMALL = [
    "compile=false",
    f"tokenizer={TOKENIZER}",
    "backbone.hidden_size=32",
    "backbone.intermediate_size=48",
    "backbone.num_layers=1",
    "backbone.num_heads=2",
    "backbone.num_key_value_heads=1",
    "backbone.head_dim=16",
    "data.held_out_documents=4",
    "data.held_out_answers=2",
    "packing.sequences_per_batch=2",
    "loop.max_tokens=1500",
]


def backbone_config(path: Path, *settings: str) -> TrainConfig:
    return load_train_config(
        ROOT / "configs" / "train" / "demo-backbone.yaml", [*SMALL, f"output.path={path}", *settings]
    )


def head_config(path: Path, backbone: Path, data: Path, *settings: str) -> TrainConfig:
    return load_train_config(
        ROOT / "configs" / "train" / "demo-head.yaml",
        [
            f"output.path={path}",
            f"backbone={backbone}",
            f"data.path={data}",
            "compile=false",
            "data.held_out_documents=3",
            "packing.sequences_per_batch=2",
            "loop.max_tokens=1500",
            *settings,
        ],
    )


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "model"
    train(backbone_config(path))
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text")
    documents = list(islice(task_stream(AutoTokenizer.from_pretrained(TOKENIZER), seed=5), 12))
    columns = {
        "prompt_token_ids": [d.prompt_ids for d in documents],
        "token_ids": [d.completion_ids for d in documents],
    }
    pq.write_table(pa.table(columns), path / "part-0.parquet")
    return path


def test_a_backbone_is_a_complete_model_directory(backbone):
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    state = json.loads((backbone / "training.json").read_text())
    assert state["finished"]
    assert 0.0 <= state["history"][-1]["right_answers"] <= 1.0


def test_the_resolved_config_lies_beside_the_model(backbone):
    assert load_train_config(backbone / "train_config.yaml") == backbone_config(backbone)


def test_a_head_keeps_the_backbone_bit_for_bit(backbone, text, tmp_path):
    train(head_config(tmp_path / "head", backbone, text))
    model = orthrus_core.load_model(tmp_path / "head")
    frozen = AutoModelForCausalLM.from_pretrained(backbone, dtype="auto").state_dict()
    trained = model.state_dict()
    assert all(torch.equal(trained[name], frozen[name]) for name in frozen)
    assert (model.config.block_size, model.config.mask_token_id) == (8, 3)
    projection = trained["model.layers.0.self_attn.q_proj_diff.weight"]
    assert not torch.equal(projection, frozen["model.layers.0.self_attn.q_proj.weight"])


def test_a_trained_model_is_not_overwritten_by_accident(backbone):
    with pytest.raises(ConfigError, match="output.overwrite=true"):
        train(backbone_config(backbone))


def test_a_missing_backbone_or_tokenizer_is_named(text, tmp_path):
    with pytest.raises(ConfigError, match="no-such-place"):
        train(head_config(tmp_path / "head", Path("no-such-place"), text))
    with pytest.raises(ConfigError, match="no-such-place"):
        train(backbone_config(tmp_path / "backbone", "tokenizer=no-such-place"))
    assert not list(tmp_path.iterdir())
