"""The three templates for a head of one's own model go together, with the same lines to change."""

import re
from pathlib import Path

from pipelines.command.config_file import load_config
from pipelines.evaluate.config import EvaluateConfig
from pipelines.generate.config.job import GenerateConfig
from pipelines.train.config import load_train_config

CONFIGS = Path(__file__).parents[2] / "configs"
SELFGEN, TRAIN, EVALUATE = (
    CONFIGS / name for name in ("generate/own-selfgen.yaml", "train/own-head.yaml", "evaluate/own.yaml")
)


def test_each_step_reads_what_the_one_before_it_writes():
    selfgen = load_config(GenerateConfig, SELFGEN)
    train, evaluate = load_train_config(TRAIN), load_config(EvaluateConfig, EVALUATE)
    assert train.data.path == (selfgen.output.path,)
    assert evaluate.model.path == train.output.path
    assert selfgen.output.token_ids
    assert selfgen.output.prompt_token_ids
    assert selfgen.decode.max_context == train.packing.sequence_len == evaluate.decode.max_context


def test_the_lines_to_change_are_the_same_in_all_of_them():
    marked: dict[str, set[str]] = {}
    for path in (SELFGEN, TRAIN, EVALUATE):
        for value, name in re.findall(r"[:-] (\S+) +# <-- (\w+)", path.read_text()):
            marked.setdefault(name, set()).add(value)
    assert marked == {"model": {"my-model"}, "prompts": {"my-prompts/*.parquet"}, "column": {"question"}}


def test_an_evaluation_compiles_nothing_on_a_cpu_unless_asked_to():
    assert load_config(EvaluateConfig, EVALUATE).decode.compile == "auto"


def test_every_shipped_config_is_read():
    for path in (CONFIGS / "evaluate").glob("*.yaml"):
        load_config(EvaluateConfig, path)
    for path in (CONFIGS / "train").glob("*.yaml"):
        load_train_config(path)
