"""What transformers' generation options mean for the decoding engine."""

import logging
from collections.abc import Mapping, Set
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from orthrus_core.errors import ConfigError
from orthrus_core.foreign_options import REASONS

logger = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 20  # transformers' own default
ENGINE_OPTIONS = {"token_budget", "block_size", "seed"}
SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}  # transformers' own
SAMPLING_OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # what its None stands for
EDITS = {"repetition_penalty", "min_new_tokens", "bad_words_ids", "suppress_tokens", "sequence_bias"}
USED_OPTIONS = {"max_new_tokens", "max_length", "eos_token_id", "pad_token_id", "stop_strings", *EDITS}
# Without effect on greedy decoding.
SAMPLING_FILTERS = {"typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"}
# Used elsewhere, or without effect on anything here.
IGNORED_OPTIONS = {
    "do_sample",
    *SAMPLING_DEFAULTS,
    "bos_token_id",
    "use_cache",
    "cache_implementation",
    "transformers_version",
}
# Values, beside None, with which transformers' other options change nothing. Whatever is not here, fields of
# its future versions among them, is refused.
NEUTRAL_VALUES = {
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "guidance_scale": 1.0,
    "early_stopping": False,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "token_healing": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
    "return_dict_in_generate": False,
    "is_assistant": False,
    "use_mtp": False,
    "disable_compile": False,
    "low_memory": False,
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
        kwargs: as given to `generate`; None turns an option of transformers' off, as it does there.
        prompt_len: N, padding included.
    Returns:
        max_new_tokens, eos_token_id (an id, a tuple or None), pad_token_id (an id or None), stop_strings (a
        string, a list or an empty tuple), token_budget, block_size and seed where given, temperature, top_k,
        top_p and min_p when sampling is asked for, and under `edits` what `SamplingParams` calls the options
        that change logits.
    Raises:
        ConfigError: an option or a value that would change the output and that the engine does not have.
    """
    given = _set_fields(generation_config) | {
        name: value for name, value in kwargs.items() if name in _fields() or value is not None
    }
    unknown = sorted(given.keys() - _fields() - ENGINE_OPTIONS)
    if unknown:
        reason = f": {REASONS[unknown[0]]}" if unknown[0] in REASONS else ""
        raise ConfigError(f"generate with use_diffusion_mode does not take {', '.join(unknown)}{reason}")
    inherited = _set_fields(model.generation_config)
    if foreign := sorted(inherited.keys() - _fields()):
        logger.warning("the model's generation_config has %s, which nothing here knows", ", ".join(foreign))
    is_sampling = _asks_for_sampling(inherited, given)
    options = inherited | given
    _refuse_what_is_missing(options, is_sampling=is_sampling)
    eos, pad = options.get("eos_token_id"), options.get("pad_token_id")
    eos = tuple(eos) if isinstance(eos, list) else eos
    if pad is None:
        pad = eos[0] if isinstance(eos, tuple) else eos
    return (
        {name: options[name] for name in ENGINE_OPTIONS & options.keys()}
        | (_sampling(options) if is_sampling else {})
        | {
            "max_new_tokens": _max_new_tokens(options, prompt_len, model.config.max_position_embeddings),
            "eos_token_id": eos,
            "stop_strings": options.get("stop_strings") or (),
            "pad_token_id": pad,
            "edits": edits_of(options),
        }
    )


def _fields() -> Set[str]:
    """The options of this version of transformers."""
    return vars(GenerationConfig()).keys()


def _set_fields(generation_config: GenerationConfig | None) -> dict[str, Any]:
    """Return what was set, foreign entries among it, without transformers' own bookkeeping."""
    if generation_config is None:
        return {}
    return {
        name: value
        for name, value in generation_config.to_diff_dict().items()
        if not name.startswith("_") and value is not None
    }


def _refuse_what_is_missing(options: dict[str, Any], *, is_sampling: bool) -> None:
    without_effect = IGNORED_OPTIONS if is_sampling else IGNORED_OPTIONS | SAMPLING_FILTERS
    for name in sorted(options.keys() & _fields() - USED_OPTIONS - without_effect):
        if options[name] is not None and options[name] != NEUTRAL_VALUES.get(name):
            reason = f": {REASONS[name]}" if name in REASONS else ""
            raise ConfigError(
                f"generate with use_diffusion_mode has no {name}, got {options[name]!r}{reason}"
            )


def edits_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `SamplingParams` that stand for transformers' options in `EDITS`; None: off.

    Raises:
        ConfigError: a bias on several tokens, which the engine does not have.
    """
    eos = options.get("eos_token_id")
    ends = [[one] for one in (eos if isinstance(eos, list | tuple) else [eos])]
    bad_words = [word for word in options.get("bad_words_ids") or () if list(word) not in ends]  # as it does
    biases = options.get("sequence_bias") or {}
    pairs = list(biases.items() if isinstance(biases, Mapping) else biases)
    if longer := [tuple(ids) for ids, _ in pairs if len(ids) != 1]:
        raise ConfigError(f"sequence_bias must name single tokens, got {longer[0]}")
    return {
        "repetition_penalty": options.get("repetition_penalty") or 1.0,
        "min_tokens": options.get("min_new_tokens") or 0,
        "bad_words": (*bad_words, *([one] for one in options.get("suppress_tokens") or ())),
        "logit_bias": tuple((ids[0], bias) for ids, bias in pairs),
    }


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Return temperature and filters: their defaults where not named, off where None."""
    named = {name: options.get(name, default) for name, default in SAMPLING_DEFAULTS.items()}
    return {name: SAMPLING_OFF[name] if value is None else value for name, value in named.items()}


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
    max_new_tokens, max_length = (options.get(name) for name in ("max_new_tokens", "max_length"))
    if max_new_tokens is not None:
        return max_new_tokens
    if max_length is None:
        return max(1, min(DEFAULT_NEW_TOKENS, max_positions - prompt_len))
    if max_length <= prompt_len:
        raise ConfigError(
            f"max_length must be greater than the prompt's {prompt_len} tokens, got {max_length}: "
            "raise it or use max_new_tokens"
        )
    return max_length - prompt_len
