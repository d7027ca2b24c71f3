"""`generate` of the transformers model, run by the decoding engine."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from orthrus_core.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from orthrus_core.decoding.engine import Completion, EngineConfig, SamplingParams

IGNORED_OPTIONS = {"use_cache", "return_dict_in_generate", "num_return_sequences", "num_beams"}


class EngineGenerationMixin:
    """Adds `use_diffusion_mode` to transformers' `generate`."""

    def generate(
        self,
        input_ids: Tensor | None = None,
        *args,
        use_diffusion_mode: bool | None = None,
        attention_mask: Tensor | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs,
    ):
        """Generate as transformers does, or with the consensus engine.

        Args:
            input_ids: (B, N) int64 prompts, left-padded when their lengths differ.
            use_diffusion_mode: True: consensus decoding; False: plain AR decoding by the same engine, the same
                tokens bit for bit; None: transformers' own `generate` with everything it offers.
            attention_mask: (B, N), 0 where a prompt is padded. None: nothing is padded.
            streamer: receives the prompt and then the tokens of every step; one prompt only.
            kwargs: with the engine: max_new_tokens, max_length, eos_token_id, pad_token_id, do_sample=False,
                generation_config, token_budget, block_size.
        Returns:
            (B, N + longest completion) int64: prompts as given, completions padded on the right.
        Raises:
            ConfigError: an option the engine does not have.
            RequestError: a prompt the engine cannot run.
        """
        if use_diffusion_mode is None:
            return super().generate(  # type: ignore[misc]
                input_ids, *args, attention_mask=attention_mask, streamer=streamer, **kwargs
            )
        if input_ids is None or input_ids.dim() != 2:
            raise ConfigError("generate needs input_ids of shape (batch, length) with use_diffusion_mode")
        if args:
            raise ConfigError("with use_diffusion_mode, generate takes its options by keyword")
        mode = "consensus" if use_diffusion_mode else "autoregressive"
        return _generate(self, input_ids, attention_mask, streamer, mode, kwargs)


@torch.no_grad()
def _generate(model, input_ids: Tensor, attention_mask: Tensor | None, streamer, mode: str, kwargs: dict) -> Tensor:
    from orthrus_core.decoding.engine import Engine, Request

    if streamer is not None and len(input_ids) > 1:
        raise ConfigError(f"a streamer takes one prompt, got a batch of {len(input_ids)}")
    prompts = _unpad(input_ids, attention_mask)
    engine_config, params, pad_token_id = _plan(model, prompts, mode, kwargs)
    engine = Engine(model, engine_config)
    on_tokens = None
    if streamer is not None:
        streamer.put(input_ids.cpu())
        on_tokens = lambda ids: streamer.put(torch.tensor(ids))  # noqa: E731
    requests = [Request(prompt, params, on_tokens=on_tokens) for prompt in prompts]
    completions = engine.run(requests)
    if streamer is not None:
        streamer.end()
    return _pad(input_ids, completions, pad_token_id)


def _unpad(input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    if attention_mask is None:
        return input_ids.tolist()
    if attention_mask.shape != input_ids.shape:
        raise ConfigError(
            f"attention_mask must have the shape of input_ids {tuple(input_ids.shape)}, "
            f"got {tuple(attention_mask.shape)}"
        )
    keep = attention_mask.bool()
    if bool((keep[:, :-1] & ~keep[:, 1:]).any()):
        raise ConfigError("prompts must be padded on the left: set tokenizer.padding_side = 'left'")
    return [row[mask].tolist() for row, mask in zip(input_ids, keep, strict=True)]


def _plan(
    model, prompts: list[list[int]], mode: str, kwargs: dict
) -> "tuple[EngineConfig, SamplingParams, int]":
    """Turn transformers' generation options into the engine's."""
    from orthrus_core.decoding.engine import EngineConfig, SamplingParams

    options = dict(kwargs)
    generation_config = options.pop("generation_config", None) or model.generation_config
    block_size = options.pop("block_size", None) or model.config.block_size
    sequences = min(len(prompts), 32)
    token_budget = options.pop("token_budget", None) or _round_up(sequences * (block_size + 1), 16)
    longest = max(map(len, prompts), default=1)
    eos_token_id = options.pop("eos_token_id", generation_config.eos_token_id)
    pad_token_id = options.pop("pad_token_id", generation_config.pad_token_id)
    max_new_tokens = _max_new_tokens(options, generation_config, longest)
    if options.pop("do_sample", generation_config.do_sample) and options.pop("temperature", 1.0) != 0.0:
        raise ConfigError("use_diffusion_mode decodes greedily: pass do_sample=False")
    options.pop("temperature", None)
    unknown = sorted(set(options) - IGNORED_OPTIONS)
    if unknown:
        raise ConfigError(f"generate with use_diffusion_mode does not take: {', '.join(unknown)}")
    eos = tuple(eos_token_id) if isinstance(eos_token_id, list | tuple) else eos_token_id
    config = EngineConfig.model_validate(
        {
            "mode": mode,
            "token_budget": max(token_budget, 16),
            "block_size": block_size,
            "max_sequences": max(sequences, 1),
            "max_context": min(longest + max_new_tokens, model.config.max_position_embeddings),
            "self_check": False,
        }
    )
    params = SamplingParams(max_new_tokens=max_new_tokens, eos_token_id=eos)
    if pad_token_id is None:
        pad_token_id = eos[0] if isinstance(eos, tuple) else eos
    return config, params, 0 if pad_token_id is None else pad_token_id


def _max_new_tokens(options: dict, generation_config, prompt_length: int) -> int:
    asked = options.pop("max_new_tokens", None)
    max_length = options.pop("max_length", None)
    if asked is None and max_length is not None:
        asked = max_length - prompt_length
    if asked is None:
        asked = generation_config.max_new_tokens or (generation_config.max_length or 20) - prompt_length
    if asked < 1:
        raise ConfigError(f"max_new_tokens must be >= 1, got {asked}: the prompt fills max_length already")
    return asked


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _pad(input_ids: Tensor, completions: "list[Completion]", pad_token_id: int) -> Tensor:
    for index, completion in enumerate(completions):
        if completion.error is not None:
            raise RequestError(f"prompt {index}: {completion.error}")
    width = max(len(completion.token_ids) for completion in completions)
    out = input_ids.new_full((len(completions), width), pad_token_id)
    for row, completion in zip(out, completions, strict=True):
        row[: len(completion.token_ids)] = input_ids.new_tensor(completion.token_ids)
    return torch.cat([input_ids, out], dim=1)
