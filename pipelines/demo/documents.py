"""The demo's generated tasks for training a backbone: a `DocumentSource` of the train job."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from orthrus_core.training.packing import Document
from pipelines.demo.rows import render_task
from pipelines.demo.tasks import Task, generate_tasks, is_right
from pipelines.demo.tasks.generator import Split

HELD_OUT_SEED = 7
MAX_NEW_TOKENS = 256
ANSWERS_AT_ONCE = 50
TASKS_PER_CHUNK = 1000
CHUNKS_PER_SEED = 1_000_000


def held_out_documents(tokenizer: PreTrainedTokenizerBase, count: int) -> list[Document]:
    """Tasks that training never sees."""
    return list(task_documents(tokenizer, seed=HELD_OUT_SEED, num_tasks=count, split="heldout"))


def right_answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int) -> float:
    """Share of held-out tasks, others than those, that a model answers right, greedily by `generate`."""
    tasks = list(generate_tasks(HELD_OUT_SEED + 1, count, "heldout"))
    num_right = 0
    for start in range(0, len(tasks), ANSWERS_AT_ONCE):
        batch = tasks[start : start + ANSWERS_AT_ONCE]
        texts = _answer(model, tokenizer, batch)
        num_right += sum(is_right(task, text) for task, text in zip(batch, texts, strict=True))
    return num_right / len(tasks)


@torch.no_grad()
def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Task]) -> list[str]:
    prompts = {"input_ids": [render_task(tokenizer, task)[0] for task in tasks]}
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt")
    output_ids = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)  # type: ignore[operator]
    answers = output_ids[:, batch["input_ids"].shape[1] :]
    return tokenizer.batch_decode(answers, skip_special_tokens=True)


def task_documents(
    tokenizer: PreTrainedTokenizerBase, *, seed: int, num_tasks: int, split: Split
) -> Iterator[Document]:
    """Rendered tasks of one seed."""
    for task in generate_tasks(seed, num_tasks, split):
        yield Document(*render_task(tokenizer, task))


class TrainingDocuments:
    """Training tasks without end, in chunks with a seed each; rank r of w takes every w-th chunk."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Stand at the beginning."""
        self._tokenizer = tokenizer
        self._seed = seed
        self._world_size = world_size
        self._chunk, self._taken = rank, 0
        self._tasks = self._open()

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while (document := next(self._tasks, None)) is None:
            self._chunk, self._taken = self._chunk + self._world_size, 0
            self._tasks = self._open()
        self._taken += 1
        return document

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        return {"chunk": self._chunk, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        self._chunk, self._taken = state["chunk"], state["taken"]
        self._tasks = islice(self._open(), self._taken, None)

    def _open(self) -> Iterator[Document]:
        seed = self._seed * CHUNKS_PER_SEED + self._chunk
        return task_documents(self._tokenizer, seed=seed, num_tasks=TASKS_PER_CHUNK, split="train")
