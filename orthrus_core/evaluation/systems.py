"""What is timed: the engine in either mode, and transformers' ways to decode the same model."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.step import DiffusionDrafts, DraftSource
from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.speed import Outputs, Prompts, System, Work
from orthrus_core.models.model import OrthrusLM
from orthrus_core.readiness.engine import Engine
from orthrus_core.request import SamplingParams

LOOKUP_TOKENS = 10  # transformers' documentation shows this value
PAGE_SIZE = 32  # of generate_batch's cache; its default of 256 leaves most of a short sequence's page empty
BATCH_TOKENS = 256  # rows of generate_batch's forwards; see `generate_batch_system`


class EngineSystem:
    """The engine with one config. One engine serves all rounds and forgets the prompts between them.

    Attributes:
        engine: made for the first prompts, None before.
        completions: of the last round.
    """

    def __init__(
        self,
        model: OrthrusLM,
        *,
        params: SamplingParams,
        config: EngineConfig,
        make_draft: Callable[[], DraftSource] = DiffusionDrafts,
    ):
        """Args: make_draft gives the engine its source of drafts."""
        self._model, self._params, self._config, self._make_draft = model, params, config, make_draft
        self.engine: Engine | None = None
        self.completions: list[Completion] = []

    def __call__(self, prompts: Prompts) -> Work:
        """Start the engine if it does not run yet."""
        engine = self.engine or Engine(self._model, self._config, draft=self._make_draft())
        self.engine = engine
        engine.forget_prompts()

        def work() -> Outputs:
            self.completions = engine.generate(prompts, self._params)
            assert all(completion.error is None for completion in self.completions)
            return [completion.token_ids for completion in self.completions]

        return work


def transformers_system(model: OrthrusLM, *, params: SamplingParams, batch_size: int) -> System:
    """Return transformers' greedy `generate`: its own attention and KV cache, batches padded on the left.

    The prompts are taken in their order, `batch_size` at a time; a batch runs until its last row ends.

    Raises:
        ConfigError: stop rules that transformers' `generate` does not have, or sampling, whose noise differs.
    """
    return _generate_system(model, _options(model, params), batch_size)


def prompt_lookup_system(model: OrthrusLM, *, params: SamplingParams) -> System:
    """Return transformers' assisted generation, drafts looked up in the text so far, one prompt at a time.

    Raises:
        ConfigError: as `transformers_system`.
    """
    return _generate_system(model, _options(model, params) | {"prompt_lookup_num_tokens": LOOKUP_TOKENS}, 1)


def generate_batch_system(model: OrthrusLM, *, params: SamplingParams, batch_size: int) -> System:
    """Return transformers' greedy continuous batching, `batch_size` requests in flight.

    Its cache has room for exactly these requests and its forwards have at most BATCH_TOKENS rows: by default
    it takes most of the machine's memory for a cache, and reading that made it 4 times as slow.

    Raises:
        ConfigError: as `transformers_system`.
    """
    config = GenerationConfig(**_options(model, params))

    def prepare(prompts: Prompts) -> Work:
        longest = max(map(len, prompts)) + params.max_new_tokens
        batching = ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=(batch_size + 1) * -(-longest // PAGE_SIZE),
            max_batch_tokens=BATCH_TOKENS,
            max_requests_per_batch=batch_size,
        )
        inputs = [list(prompt) for prompt in prompts]

        def work() -> Outputs:
            results: Any = model.generate_batch(
                inputs, generation_config=config, continuous_batching_config=batching, warmup=False
            )
            outputs = [list(result.generated_tokens) for result in results.values()]
            assert len(outputs) == len(prompts), "generate_batch lost requests"
            return outputs

        return work

    return prepare


def _options(model: OrthrusLM, params: SamplingParams) -> dict[str, Any]:
    """Turn sampling parameters into those of transformers' `generate`."""
    if params.temperature:
        raise ConfigError("timing transformers needs sampling.temperature 0: its noise is not the engine's")
    if params.ignore_eos or params.stop_token_ids:
        raise ConfigError("timing transformers needs sampling without ignore_eos and stop_token_ids")
    eos_ids = eos_ids_of(model, params)
    return {
        "max_new_tokens": params.max_new_tokens,
        "do_sample": False,
        "eos_token_id": eos_ids or None,
        "pad_token_id": min(eos_ids, default=0),
    }


def _generate_system(model: OrthrusLM, options: dict[str, Any], batch_size: int) -> System:
    eos_ids = options["eos_token_id"] or ()

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


def eos_ids_of(model: OrthrusLM, params: SamplingParams) -> list[int]:
    """Return the ids that end a completion: those of the parameters, else the model's."""
    value = model.generation_config.eos_token_id if params.eos_token_id is None else params.eos_token_id
    if value is None:
        return []
    return [value] if isinstance(value, int) else sorted(set(value))
