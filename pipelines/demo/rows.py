"""Rendered tasks for training and prompt files for generation."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from orthrus_core.errors import ConfigError
from pipelines.demo.tasks import Task, generate_tasks
from pipelines.demo.tasks.generator import Split


def render_task(tokenizer: PreTrainedTokenizerBase, task: Task) -> tuple[list[int], list[int]]:
    """Turn a task into token ids for training.

    Returns:
        (prompt_ids, completion_ids): the prompt in the chat template up to the assistant's turn, and the
        completion ending with the end-of-turn token. Their concatenation is what a decoder sees.
    """
    messages = [{"role": "user", "content": task.prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(task.completion, add_special_tokens=False)["input_ids"]
    return prompt_ids, [*completion_ids, tokenizer.eos_token_id]


def write_prompts(path: Path, num_rows: int = 500, num_shards: int = 4, seed: int = 1) -> None:
    """Write held-out prompts as Parquet shards of uneven size, `prompts-00000.parquet` and so on.

    Raises:
        ConfigError: fewer rows than shards, or no shard at all.
    """
    _write_shards(path, _table(seed, num_rows, "heldout"), num_shards)


def write_training_prompts(path: Path, num_rows: int, num_shards: int, seed: int) -> None:
    """Write prompts of the training split, for text the model generates itself."""
    _write_shards(path, _table(seed, num_rows, "train"), num_shards)


def write_given_text(
    path: Path, tokenizer: PreTrainedTokenizerBase, num_rows: int, num_shards: int, seed: int
) -> None:
    """Write the training prompts of a seed with the tasks' own completions, as the generate job writes its.

    A head trained on them has seen given text instead of the model's own. Columns: id,
    prompt_token_ids, token_ids (lists of int32).
    """
    tasks = _distinct_tasks(seed, num_rows, "train")
    documents = [render_task(tokenizer, task) for task in tasks]
    table = pa.table(
        {
            "id": pa.array([f"train-{seed}-{i:06d}" for i in range(len(tasks))], pa.string()),
            "prompt_token_ids": pa.array([prompt for prompt, _ in documents], pa.list_(pa.int32())),
            "token_ids": pa.array([completion for _, completion in documents], pa.list_(pa.int32())),
        }
    )
    _write_shards(path, table, num_shards)


def _distinct_tasks(seed: int, count: int, split: Split) -> list[Task]:
    """The first `count` tasks of a seed whose prompts differ."""
    tasks: dict[str, Task] = {}
    for task in generate_tasks(seed, 4 * count + 100, split):
        tasks.setdefault(task.prompt, task)
        if len(tasks) == count:
            break
    return list(tasks.values())


def _table(seed: int, num_rows: int, split: Split) -> pa.Table:
    """Collect distinct prompts.

    Returns:
        Table of `num_rows` rows; columns id, kind, prompt, answer, all strings.
    """
    rows = [
        {"id": f"{split}-{seed}-{i:06d}", "kind": task.kind, "prompt": task.prompt, "answer": task.answer}
        for i, task in enumerate(_distinct_tasks(seed, num_rows, split))
    ]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([(c, pa.string()) for c in ("id", "kind", "prompt", "answer")])
    )


def _write_shards(path: Path, table: pa.Table, num_shards: int) -> None:
    """Cut a table into shards whose sizes grow like 1, 2, 3, ..."""
    if not 1 <= num_shards <= len(table):
        raise ConfigError(f"num_shards must be in [1, num_rows={len(table)}], got {num_shards}")
    path.mkdir(parents=True, exist_ok=True)
    whole = num_shards * (num_shards + 1) // 2
    edges = [len(table) * i * (i + 1) // 2 // whole for i in range(num_shards + 1)]
    for i, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        pq.write_table(table.slice(start, end - start), path / f"prompts-{i:05d}.parquet")
