"""Documents to train on: generated tasks, or rows that the generate job wrote."""

import logging
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pyarrow.dataset as ds
from transformers import PreTrainedTokenizerBase

from orthrus_core.errors import ConfigError
from orthrus_core.training.packing import Document
from pipelines.demo.rows import render_task
from pipelines.demo.tasks import generate_tasks
from pipelines.demo.tasks.generator import Split
from pipelines.train.config import RowDataConfig

logger = logging.getLogger(__name__)

TASKS_PER_CHUNK = 1000


def task_documents(
    tokenizer: PreTrainedTokenizerBase, *, seed: int, num_tasks: int, split: Split
) -> Iterator[Document]:
    """Rendered tasks of one seed."""
    for task in generate_tasks(seed, num_tasks, split):
        yield Document(*render_task(tokenizer, task))


def task_stream(tokenizer: PreTrainedTokenizerBase, *, seed: int) -> Iterator[Document]:
    """Training tasks without end: chunk c has the seed `seed * 1_000_000 + c`."""
    for chunk in count(seed * 1_000_000):
        yield from task_documents(tokenizer, seed=chunk, num_tasks=TASKS_PER_CHUNK, split="train")


def row_documents(config: RowDataConfig, *, sequence_len: int) -> list[Document]:
    """Read prompts and completions from Parquet, in the order of the files.

    Rows without a completion (error rows) or with less than two tokens hold nothing to learn: left out.

    Args:
        sequence_len: longest row that can be packed, prompt and completion together.
    Raises:
        ConfigError: nothing to read, a column is missing, no row is usable, or rows are too long and
            `config.too_long` is "refuse".
    """
    path, columns = Path(config.path), [config.prompt_column, config.completion_column]
    files = _parquet_files(path) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"data.path {path} holds no Parquet files: run the generate job first")
    dataset = ds.dataset([str(file) for file in files], format="parquet")
    missing = [column for column in columns if column not in dataset.schema.names]
    if missing:
        raise ConfigError(
            f"data.path {path} has no column {', '.join(missing)} "
            f"(it has {', '.join(dataset.schema.names)}): ask the generate job for token ids"
        )
    table = dataset.to_table(columns=columns)
    rows = zip(*(table[column].to_pylist() for column in columns), strict=True)
    documents = [
        Document(prompt, completion) for prompt, completion in rows if prompt and len(completion or ()) > 1
    ]
    documents = _fitting(documents, config, sequence_len)
    if not documents:
        raise ConfigError(f"data.path {path} has no row with a prompt and a completion")
    return documents


def _parquet_files(directory: Path) -> list[Path]:
    """Parquet files below a directory, without those in hidden and `_run`-like places, sorted."""
    files = sorted(directory.rglob("*.parquet"))
    return [file for file in files if not any(p[0] in "._" for p in file.relative_to(directory).parts)]


def _fitting(documents: list[Document], config: RowDataConfig, sequence_len: int) -> list[Document]:
    fitting = [document for document in documents if len(document) <= sequence_len]
    num_too_long = len(documents) - len(fitting)
    if num_too_long and config.too_long == "refuse":
        raise ConfigError(
            f"data.path {config.path} has {num_too_long} of {len(documents)} rows longer than "
            f"packing.sequence_len {sequence_len}: raise it, or set data.too_long=drop"
        )
    if num_too_long:
        logger.warning("dropped rows=%d of=%d longer_than=%d", num_too_long, len(documents), sequence_len)
    return fitting


def split_documents(
    documents: list[Document], *, num_held_out: int, seed: int
) -> tuple[list[Document], list[Document]]:
    """Draw documents to hold out; returns (held out, the others).

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if num_held_out >= len(documents):
        raise ConfigError(
            f"data.held_out_documents is {num_held_out}, but there are only {len(documents)} documents"
        )
    shuffled = random.Random(seed).sample(documents, len(documents))
    return shuffled[:num_held_out], shuffled[num_held_out:]


def shuffled_epochs(documents: list[Document], *, seed: int) -> Iterator[Document]:
    """The documents again and again, in a new order each time."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(documents, len(documents))
