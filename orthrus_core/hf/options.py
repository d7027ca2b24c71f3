"""What transformers' generation options mean for the decoding engine."""

import logging
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from orthrus_core.errors import ConfigError

logger = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 20  # transformers' own default
ENGINE_OPTIONS = {"token_budget", "block_size", "seed"}
SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}  # transformers' own
USED_OPTIONS = {"max_new_tokens", "max_length", "eos_token_id", "pad_token_id", "stop_strings"}
# Without effect on greedy decoding.
SAMPLING_FILTERS = {"typical_p", "epsilon_cutoff", "eta_cutoff"}
# Used elsewhere, or without effect on anything here.
IGNORED_OPTIONS = {
    "do_sample",
    *SAMPLING_DEFAULTS,
    "bos_token_id",
    "use_cache",
    "cache_implementation",
    "transformers_version",
}
# Values with which transformers' other options change nothing; where not named, 0 and False.
NEUTRAL_VALUES = {
    "typical_p": 1.0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "guidance_scale": 1.0,
}


def merge_options(
    model: PreTrainedModel,
    generation_config: GenerationConfig | None,
    kwargs: dict[str, Any],
    *,
    prompt_len: int,
) -> dict[str, Any]:
    """Return the options in force: keywords, else `generation_config`, else the model's own.

    Args:
        model: its generation_config fills what was not given.
        generation_config: as given to `generate`.
        kwargs: as given to `generate`; None stands for not given.
        prompt_len: N, padding included.
    Returns:
        max_new_tokens, eos_token_id (an id, a tuple or None), pad_token_id (an id or None), stop_strings (a
        string, a list or an empty tuple), token_budget, block_size and seed where given, and temperature,
        top_k, top_p and min_p when sampling is asked for.
    Raises:
        ConfigError: an option or a value that would change the output and that the engine does not have.
    """
    given = _set_fields(generation_config)
    given |= {name: value for name, value in kwargs.items() if value is not None}
    inherited = _set_fields(model.generation_config)
    unknown = sorted(given.keys() - vars(GenerationConfig()).keys() - ENGINE_OPTIONS)
    if unknown:
        raise ConfigError(f"generate with use_diffusion_mode does not take {', '.join(unknown)}")
    is_sampling = _asks_for_sampling(inherited, given)
    options = inherited | given
    without_effect = IGNORED_OPTIONS if is_sampling else IGNORED_OPTIONS | SAMPLING_FILTERS
    for name in sorted(options.keys() - ENGINE_OPTIONS - USED_OPTIONS - without_effect):
        if options[name] != NEUTRAL_VALUES.get(name, 0):
            raise ConfigError(f"generate with use_diffusion_mode has no {name}, got {options[name]!r}")
    eos = options.get("eos_token_id", model.config.eos_token_id)
    eos = tuple(eos) if isinstance(eos, list) else eos
    sampling = {name: options.get(name, value) for name, value in SAMPLING_DEFAULTS.items()}
    engine_options = {name: options[name] for name in ENGINE_OPTIONS & options.keys()}
    return (
        engine_options
        | (sampling if is_sampling else {})
        | {
            "max_new_tokens": _max_new_tokens(options, prompt_len, model.config.max_position_embeddings),
            "eos_token_id": eos,
            "stop_strings": options.get("stop_strings", ()),
            "pad_token_id": options.get("pad_token_id", eos[0] if isinstance(eos, tuple) else eos),
        }
    )


def _set_fields(generation_config: GenerationConfig | None) -> dict[str, Any]:
    """Return the fields of transformers' that were set, without its bookkeeping and foreign entries."""
    if generation_config is None:
        return {}
    fields = vars(GenerationConfig()).keys()
    return {
        name: value
        for name, value in generation_config.to_diff_dict().items()
        if name in fields and not name.startswith("_") and value is not None
    }


def _asks_for_sampling(inherited: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether the caller wants sampling; the model's own wish for it alone does not count."""
    temperature = given.get("temperature")
    if given.get("do_sample", bool(temperature)) and temperature != 0.0:
        return True
    if inherited.get("do_sample") and "do_sample" not in given:
        logger.warning(
            "the model's generation_config asks for sampling; use_diffusion_mode decodes greedily unless "
            "do_sample=True is passed"
        )
    return False


def _max_new_tokens(options: dict[str, Any], prompt_len: int, max_positions: int) -> int:
    """Apply transformers' rules: max_new_tokens wins, max_length counts the prompt, else 20 tokens."""
    if "max_new_tokens" in options:
        return options["max_new_tokens"]
    if "max_length" not in options:
        return max(1, min(DEFAULT_NEW_TOKENS, max_positions - prompt_len))
    if options["max_length"] <= prompt_len:
        raise ConfigError(
            f"max_length must be greater than the prompt's {prompt_len} tokens, got {options['max_length']}: "
            "raise it or use max_new_tokens"
        )
    return options["max_length"] - prompt_len
