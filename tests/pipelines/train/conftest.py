"""A backbone of two layers with the demo's tokenizer, rows of the demo's tasks, and configs for both."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from pipelines.demo.documents import TrainingDocuments
from pipelines.train.config import HeadTrainConfig, load_train_config
from tests.pipelines.conftest import ROOT, TOKENIZER_FILES
from tests.small_models import small_backbone

TOKENIZER = ROOT / "pipelines" / "demo" / "model"
IDS = pa.list_(pa.int32())
QUICK = [
    "compile=false",
    "scaling.workers=0",
    "scaling.ray_address=local",
    "head.anchors_per_sequence=8",
    "data.held_out_documents=3",
    "packing.sequence_len=256",
    "packing.sequences_per_batch=1",
    "loop.precision=float32",
    "loop.max_tokens=1800",
    "loop.log_every_s=0.001",
    "loop.save_every_steps=2",
]

MakeConfig = Callable[..., HeadTrainConfig]


@pytest.fixture(scope="session")
def plain_backbone(tmp_path_factory) -> Path:
    """A random Qwen3 of two layers."""
    path = tmp_path_factory.mktemp("backbone")
    small_backbone(vocab_size=1024, eos_token_id=2).save_pretrained(path)
    for name in TOKENIZER_FILES:
        shutil.copy(TOKENIZER / name, path)
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """24 rows in two files, at most 251 tokens each."""
    path = tmp_path_factory.mktemp("text")
    stream = TrainingDocuments(AutoTokenizer.from_pretrained(TOKENIZER), seed=5)
    documents = list(islice((d for d in stream if len(d) <= 250), 24))
    for number, part in enumerate((documents[:16], documents[16:])):
        prompts, completions = [d.prompt_ids for d in part], [d.completion_ids for d in part]
        write_rows(path / f"part-{number}.parquet", prompts, completions)
    return path


@pytest.fixture(scope="session")
def make_config(plain_backbone, text) -> MakeConfig:
    """configs/train/demo-head.yaml for the small backbone: make_config(output, *settings)."""

    def make(output: Path | str, *settings: str) -> HeadTrainConfig:
        fixed = [f"output.path={output}", f"backbone={plain_backbone}", f"data.path={text}"]
        config = load_train_config(ROOT / "configs/train/demo-head.yaml", [*QUICK, *fixed, *settings])
        assert isinstance(config, HeadTrainConfig)
        return config

    return make


def write_rows(path: Path, prompts: list, completions: list, **columns) -> None:
    """Write rows of token ids as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = {"prompt_token_ids": pa.array(prompts, IDS), "token_ids": pa.array(completions, IDS)}
    pq.write_table(pa.table(ids | columns), path)
