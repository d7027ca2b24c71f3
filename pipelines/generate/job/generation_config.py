"""The checkpoint's generation_config.json: what a run takes, what it leaves, and what the engine has not."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orthrus_core.errors import ConfigError
from orthrus_core.hf.options import NEUTRAL_VALUES, SAMPLING_DEFAULTS
from pipelines.config.faults import explain_fault
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.config.sampling import SamplingConfig

FILE = "generation_config.json"
# Fields that options of ours stand for.
OPTIONS = {
    name: name for name in (*SAMPLING_DEFAULTS, "max_new_tokens", "eos_token_id", "repetition_penalty")
} | {"stop_strings": "stop", "min_new_tokens": "min_tokens", "bad_words_ids": "bad_words"}
# Fields that change no text: ids that prompts bring along, caches, speed, form of the answer, beams alone.
NO_EFFECT = {
    *("do_sample", "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory", "use_mtp"),
    *("compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_early_exit"),
    *("assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "speculation_type"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "early_stopping", "length_penalty"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    "return_dict_in_generate",
}

OFF = {"repetition_penalty": 1.0, "min_new_tokens": 0, "bad_words_ids": []}  # of options, change nothing

logger = logging.getLogger(__name__)


def resolve(config: GenerateConfig, path: str) -> tuple[GenerateConfig, dict[str, Any]]:
    """Give a config what the checkpoint says of sampling, if it asks for that, and say so in one line.

    Args:
        path: the checkpoint's directory.
    Returns:
        The config, and the fields of the file by what became of them: `taken`, `left` and `unsupported`.
    Raises:
        ConfigError: the file is no JSON object, or has a value that an option cannot take.
    """
    (stored, ignored), sampling = _stored(path), config.sampling
    given = _options(stored, ignored) if sampling.generation_config == "use" else {}
    taken = {option: value for option, value in given.items() if option not in sampling.model_fields_set}
    kept = set(taken) | ({"eos_token_id"} if sampling.eos_token_id is None else set())  # by the engine itself
    fates = {
        "taken": taken,
        "left": {name: stored[name] for name in stored if name in OPTIONS and OPTIONS[name] not in kept},
        "unsupported": {name: value for name, value in stored.items() if name not in OPTIONS},
    }
    if any(fates.values()):
        _log(sampling.generation_config, fates)
    return config.model_copy(update={"sampling": _with(sampling, taken)}), fates


def _stored(path: str) -> tuple[dict[str, Any], set[str]]:
    """Fields of the file that may change a text; and those that do not, since it does not sample."""
    file = Path(path) / FILE
    if not file.is_file():
        return {}, set()
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model.path: {file} is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"model.path: {file} must hold a JSON object, got {type(tree).__name__}")
    stored = {name: value for name, value in tree.items() if _may_matter(name, value)}
    if tree.get("do_sample"):
        return SAMPLING_DEFAULTS | stored, set()
    return stored, set(SAMPLING_DEFAULTS)


def _may_matter(name: str, value: Any) -> bool:
    if value is None or name in NO_EFFECT or name.startswith("_"):
        return False
    if OFF.get(name) == value:
        return False
    return name in OPTIONS or value not in (NEUTRAL_VALUES.get(name, 0), [], {})


def _options(stored: Mapping[str, Any], ignored: set[str]) -> dict[str, Any]:
    """What the file asks for, in our options."""
    return {
        OPTIONS[name]: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
        if name in OPTIONS and name not in ignored
    }


def _with(sampling: SamplingConfig, taken: Mapping[str, Any]) -> SamplingConfig:
    try:
        return SamplingConfig.model_validate({**sampling.model_dump(), **taken})
    except ValidationError as error:
        fault = explain_fault(error.errors()[0], SamplingConfig)
        raise ConfigError(
            f"sampling.generation_config: in the checkpoint's {FILE}, {fault}; set it in sampling, or ignore"
        ) from None


def _log(mode: str, fates: Mapping[str, Mapping[str, Any]]) -> None:
    parts = [f"{fate}={json.dumps(fields)}" for fate, fields in fates.items() if fields]
    level = logging.WARNING if mode == "use" and fates["unsupported"] else logging.INFO
    logger.log(level, "sampling.generation_config %s: %s", mode, " ".join(parts))
