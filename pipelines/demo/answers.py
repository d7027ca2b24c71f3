"""Checking a model's answers to held-out demo tasks."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipelines.demo.rows import render_task
from pipelines.demo.tasks import Task, generate_tasks, is_right

MAX_NEW_TOKENS = 256


def share_of_right_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    num_tasks: int,
    batch_size: int = 50,
) -> float:
    """Answer held-out tasks greedily with transformers' `generate` and check the answers.

    Returns:
        Share of right answers in [0, 1].
    """
    tasks = list(generate_tasks(seed, num_tasks, "heldout"))
    num_right = 0
    for start in range(0, len(tasks), batch_size):
        batch = tasks[start : start + batch_size]
        texts = _answer(model, tokenizer, batch)
        num_right += sum(is_right(task, text) for task, text in zip(batch, texts, strict=True))
    return num_right / len(tasks)


@torch.no_grad()
def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Task]) -> list[str]:
    prompts = [render_task(tokenizer, task)[0] for task in tasks]
    width = max(len(prompt) for prompt in prompts)
    padding = [width - len(prompt) for prompt in prompts]
    pad_id = tokenizer.pad_token_id
    input_ids = [[pad_id] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]
    attention_mask = [[0] * pad + [1] * (width - pad) for pad in padding]
    output_ids = model.generate(  # type: ignore[operator]
        torch.tensor(input_ids),
        attention_mask=torch.tensor(attention_mask),
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    return tokenizer.batch_decode(output_ids[:, width:], skip_special_tokens=True)
