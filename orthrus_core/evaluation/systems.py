"""What is timed: the engine in either mode, and transformers' own generate on the same model."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.engine import Engine
from orthrus_core.decoding.sampling import SamplingParams
from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.speed import Outputs, Prompts, System, Work
from orthrus_core.models.model import OrthrusLM


def engine_system(model: OrthrusLM, *, params: SamplingParams, config: EngineConfig) -> System:
    """Return the engine with this config; each round gets a new one, whose cache knows no prompt yet."""

    def prepare(prompts: Prompts) -> Work:
        engine = Engine(model, config)

        def work() -> Outputs:
            completions = engine.generate(prompts, params)
            assert all(completion.error is None for completion in completions)
            return [completion.token_ids for completion in completions]

        return work

    return prepare


def transformers_system(model: OrthrusLM, *, params: SamplingParams, batch_size: int) -> System:
    """Return transformers' greedy `generate`: its own attention and KV cache, batches padded on the left.

    The prompts are taken in their order, `batch_size` at a time; a batch runs until its last row ends.

    Raises:
        ConfigError: stop rules that transformers' `generate` does not have, or sampling, whose noise differs.
    """
    if params.temperature:
        raise ConfigError("timing transformers needs sampling.temperature 0: its noise is not the engine's")
    if params.ignore_eos or params.stop_token_ids:
        raise ConfigError("timing transformers needs sampling without ignore_eos and stop_token_ids")
    options: dict[str, Any] = {"max_new_tokens": params.max_new_tokens, "do_sample": False}
    if params.eos_token_id is not None:
        options["eos_token_id"] = sorted(_eos_ids(params.eos_token_id))
    eos_ids = _eos_ids(options.get("eos_token_id", model.generation_config.eos_token_id))
    options["pad_token_id"] = min(eos_ids, default=0)

    def prepare(prompts: Prompts) -> Work:
        starts = range(0, len(prompts), batch_size)
        batches = [pad_left(prompts[start : start + batch_size], model.device) for start in starts]

        def work() -> Outputs:
            outputs: Outputs = []
            for input_ids, attention_mask in batches:
                ids = model.generate(input_ids, attention_mask=attention_mask, **options)
                outputs += [cut_after(row, eos_ids) for row in ids[:, input_ids.shape[1] :].tolist()]
            return outputs

        return work

    return prepare


def pad_left(prompts: Prompts, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return one batch: input ids and attention mask (0 on the padding), (B, N) int64 each."""
    width = max(map(len, prompts))
    gaps = [width - len(prompt) for prompt in prompts]
    input_ids = [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
    return torch.tensor(input_ids, device=device), torch.tensor(mask, device=device)


def cut_after(token_ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """Return the tokens up to and including the first stop id."""
    for count, token_id in enumerate(token_ids, start=1):
        if token_id in stop_ids:
            return list(token_ids[:count])
    return list(token_ids)


def _eos_ids(value: int | Sequence[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
