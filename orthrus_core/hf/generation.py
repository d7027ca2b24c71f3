"""`generate` of the transformers model, run by the decoding engine."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.sequence import Completion
from orthrus_core.errors import ConfigError, RequestError
from orthrus_core.hf.options import SAMPLING_DEFAULTS, merge_options
from orthrus_core.linear.choose import linear_backends
from orthrus_core.models.model import DualViewLM, OrthrusLM
from orthrus_core.readiness.engine import Engine
from orthrus_core.readiness.ladder import round_up
from orthrus_core.readiness.selfcheck import check_exactness
from orthrus_core.request import Request, SamplingParams
from orthrus_core.text.stop_strings import Decoder

MAX_SEQUENCES = 32
CHECKED_PAGES = 3  # of each of two sequences that try out whether rows keep their bits
SAMPLING_OPTIONS = SAMPLING_DEFAULTS.keys() | {"seed"}


def generate(
    model: OrthrusLM, inputs: Tensor | None = None, *args, use_diffusion_mode: bool, **kwargs
) -> Tensor:
    """Generate with the decoding engine: `model.generate` with `use_diffusion_mode`.

    Args:
        inputs: (B, N) int64 prompts, left-padded when their lengths differ; also by the name `input_ids`.
        use_diffusion_mode: True: consensus decoding; False: plain AR decoding by the same engine, the
            same tokens bit for bit.
        kwargs: attention_mask (B, N), 0 where a prompt is padded (None: leading pad
            tokens are padding, unless they are an EOS too); streamer, which gets the prompt and then the
            tokens of every step, one prompt only; max_new_tokens, max_length, eos_token_id, pad_token_id,
            generation_config, token_budget, block_size; stop_strings with a tokenizer, which end a
            completion at the token that completes one in its own text; repetition_penalty, min_new_tokens,
            bad_words_ids, suppress_tokens, and sequence_bias of single tokens, as in transformers. Decoding
            is greedy unless do_sample=True or a temperature is given here; then temperature, top_k, top_p
            and min_p are those of transformers, its defaults included, and seed (0) decides the noise: equal
            prompts of a batch get equal text. Sampling in the model's own generation_config alone is left out
            with a warning. None turns an option off, as in transformers: eos_token_id=None goes on to the
            length. Whatever else of transformers' would change the output is refused.
    Returns:
        (B, N + longest completion) int64: prompts as given, completions padded on the
        right.
    Raises:
        ConfigError: an option the engine does not have, or a value it cannot take.
        RequestError: a prompt the engine cannot run.
    """
    if args:
        raise ConfigError("with use_diffusion_mode, generate takes its options by keyword")
    input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or not input_ids.numel():
        raise ConfigError("with use_diffusion_mode, generate needs input_ids of shape (batch, length)")
    mode = "consensus" if use_diffusion_mode else "autoregressive"
    return _generate(model, input_ids, mode, **kwargs)


def _generate(
    model,
    input_ids: Tensor,
    mode: str,
    *,
    attention_mask: Tensor | None = None,
    streamer: BaseStreamer | None = None,
    generation_config: GenerationConfig | None = None,
    tokenizer: Decoder | None = None,
    **kwargs,
) -> Tensor:
    if streamer is not None and len(input_ids) > 1:
        raise ConfigError(f"a streamer takes one prompt, got a batch of {len(input_ids)}")
    options = merge_options(model, generation_config, kwargs, prompt_len=input_ids.shape[1])
    if options["stop_strings"] and tokenizer is None:
        raise ConfigError("stop_strings are looked for in text: pass tokenizer=... to generate too")
    if attention_mask is None:
        attention_mask = _attention_mask(input_ids, options)
    prompts = _unpad(input_ids, attention_mask)
    config, params = _plan(model, prompts, mode, options)
    _check_once(model, config)
    engine = Engine(model, config, tokenizer)
    on_tokens = None
    if streamer is not None:
        streamer.put(input_ids.cpu())
        on_tokens = _put_into(streamer)
    completions = engine.run([Request(prompt, params, on_tokens=on_tokens) for prompt in prompts])
    if streamer is not None:
        streamer.end()
    return _pad(input_ids, completions, options["pad_token_id"])


def _put_into(streamer: BaseStreamer) -> Callable[[list[int]], None]:
    return lambda token_ids: streamer.put(torch.tensor(token_ids))


def _attention_mask(input_ids: Tensor, options: dict[str, Any]) -> Tensor:
    """Return (B, N) bool, False at the pad tokens before the first other token."""
    pad, eos = options["pad_token_id"], options["eos_token_id"]
    if pad is None or pad in (eos if isinstance(eos, tuple) else (eos,)):
        return torch.ones_like(input_ids, dtype=torch.bool)
    return ~(input_ids == pad).long().cumprod(dim=1).bool()


def _unpad(input_ids: Tensor, attention_mask: Tensor) -> list[list[int]]:
    if attention_mask.shape != input_ids.shape:
        raise ConfigError(
            f"attention_mask must have the shape of input_ids {tuple(input_ids.shape)}, "
            f"got {tuple(attention_mask.shape)}"
        )
    keep = attention_mask.bool().to(input_ids.device)
    if bool((keep[:, :-1] & ~keep[:, 1:]).any()):
        raise ConfigError("prompts must be padded on the left: set tokenizer.padding_side = 'left'")
    return [row[mask].tolist() for row, mask in zip(input_ids, keep, strict=True)]


def _plan(
    model, prompts: list[list[int]], mode: str, options: dict[str, Any]
) -> tuple[EngineConfig, SamplingParams]:
    """Turn the options in force into the engine's.

    Raises:
        ConfigError: a value out of bounds.
    """
    block_size = options.get("block_size", model.config.block_size)
    num_sequences = min(len(prompts), MAX_SEQUENCES)
    eos_token_id, longest = options["eos_token_id"], max(map(len, prompts))
    try:
        params = SamplingParams(
            max_new_tokens=options["max_new_tokens"],
            eos_token_id=eos_token_id,
            ignore_eos=eos_token_id is None,
            stop=options["stop_strings"],
            **{name: options[name] for name in SAMPLING_OPTIONS & options.keys()},
            **options["edits"],
        )
        config = EngineConfig.model_validate(
            {
                "mode": mode,
                "token_budget": options.get("token_budget", round_up(num_sequences * (block_size + 1))),
                "block_size": block_size,
                "max_sequences": num_sequences,
                "max_context": min(longest + params.max_new_tokens, model.config.max_position_embeddings),
                "self_check": False,
                "compile": "off",  # for one call it would cost more than it brings
            }
        )
    except ValidationError as error:
        raise ConfigError(f"generate with use_diffusion_mode: {_first_problem(error)}") from error
    return config, params


def _check_once(model: OrthrusLM, config: EngineConfig) -> None:
    """Try whether the model's rows keep their bits whatever stands beside them; a warning if not.

    The outcome holds for a budget as long as the model has the same kinds of layers: what quantisation or an
    adapter makes of it is tried again.
    """
    assert config.token_budget is not None  # `_plan` sets it
    key = (config.token_budget, model.dtype, model.device, *map(type, model.modules()))
    known = model.__dict__.setdefault("_checked_budgets", set())
    if key in known:
        return
    pool = PagePool(2 * CHECKED_PAGES + 1, config.page_size)
    tables = PageTables(pool, num_slots=2, pages_per_sequence=CHECKED_PAGES)
    runner = ModelRunner(model.eval(), tables, attention=config.attention)
    backends = linear_backends(config.linear, dtype=model.dtype, device_type=model.device.type)
    runner.use(model, backends[0])
    check_exactness(runner, {config.token_budget: 1.0})
    known.add(key)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    return f"{name}: {problem['msg']}, got {problem['input']!r}" if name else problem["msg"]


def _pad(input_ids: Tensor, completions: list[Completion], pad_token_id: int | None) -> Tensor:
    for index, completion in enumerate(completions):
        if completion.error is not None:
            raise RequestError(f"prompt {index}: {completion.error}")
    width = max(len(completion.token_ids) for completion in completions)
    out = input_ids.new_full((len(completions), width), 0 if pad_token_id is None else pad_token_id)
    for row, completion in zip(out, completions, strict=True):
        row[: len(completion.token_ids)] = input_ids.new_tensor(completion.token_ids)
    return torch.cat([input_ids, out], dim=1)


DualViewLM.engine_generate = generate
