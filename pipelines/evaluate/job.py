"""The evaluate job: is the text right, is it the text of AR decoding, and how fast does it come?"""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import orthrus_core
from orthrus_core.evaluation.exactness import Comparison, ModeRun, compare_modes
from orthrus_core.models.loading import load_config
from orthrus_core.models.model import OrthrusLM
from pipelines.checkpoint.directory import Checkpoint, fetch, load_tokenizer, locate
from pipelines.config.versions import versions
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.memory import weigh_modes
from pipelines.evaluate.prompts import PromptSet, describe, read_prompt_set, score_rows
from pipelines.evaluate.replay import time_replay
from pipelines.evaluate.speed import check_room, time_job, time_load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, generate_job: Path) -> dict[str, Any]:
    """Measure everything that the config asks for and write the report.

    Args:
        generate_job: the program behind the job section.
    Returns:
        The report, as written to `config.output`.
    Raises:
        ConfigError: model, prompts or options that do not fit together.
        OrthrusError: the generate job failed.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    checkpoint = locate(config.model)
    config = _with_context(config, checkpoint)
    tokenizer = load_tokenizer(checkpoint.path)
    prompt_sets = {name: read_prompt_set(config, name, checkpoint) for name in config.prompt_sets}
    for name in config.timed_sets:
        check_room(config, prompt_sets[name])
    report = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {"path": config.model.path, "hash": checkpoint.model_hash, "revision": checkpoint.revision},
        "machine": {"device": device_of(config), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "prompt_sets": {name: describe(prompt_set) for name, prompt_set in prompt_sets.items()},
        "texts": _texts(config, checkpoint, tokenizer, prompt_sets),
        "speed": _speed(config, checkpoint, prompt_sets),
        "replay": time_replay(config, device_of(config)) if config.replay else None,
        "memory": weigh_modes(config, checkpoint, prompt_sets, device_of(config)) if config.memory else None,
        "job": time_job(config, generate_job) if config.job else None,
        "config": config.model_dump(mode="json"),
    }
    write_report(config.output, report)
    return report


def broken_promises(report: Mapping[str, Any]) -> list[str]:
    """Say where the engine called itself exact and rows differ from AR decoding all the same."""
    return [
        f"{text['prompt_set']} in {text['dtype']}: {rows - identical} of {rows} rows"
        for text in report["texts"]
        for rows, identical in [(text["exactness"]["rows"], text["exactness"]["identical_tokens"])]
        if text["exactness"]["level"] == "exact" and identical < rows
    ]


def device_of(config: EvaluateConfig) -> str:
    """Where the model runs."""
    if config.model.device != "auto":
        return config.model.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _with_context(config: EvaluateConfig, checkpoint: Checkpoint) -> EvaluateConfig:
    """Resolve max_context where the config leaves it open: the model's."""
    most = load_config(checkpoint.path, needs_head=False).max_position_embeddings
    decode = config.decode.model_copy(update={"max_context": config.decode.max_context or most})
    return config.model_copy(update={"decode": decode})


def load(config: EvaluateConfig, checkpoint: Checkpoint, dtype: str) -> OrthrusLM:
    """Load the model in a dtype, "auto" for the checkpoint's, on the config's device."""
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    return orthrus_core.load_model(fetch(checkpoint), dtype=kind, device=device_of(config))


def _texts(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    tokenizer: "PreTrainedTokenizerBase",
    prompt_sets: Mapping[str, PromptSet],
) -> list[dict[str, Any]]:
    """Both modes over every prompt set in every dtype: right answers, acceptance, exactness."""
    texts = []
    whole_blocks = config.decode.model_copy(update={"block_policy": "fixed"})  # acceptance is the head's then
    for dtype in config.dtypes:
        model = load(config, checkpoint, dtype)
        for name, prompt_set in prompt_sets.items():
            logger.info("comparing prompt_set=%s dtype=%s rows=%d", name, dtype, len(prompt_set.rows))
            both = compare_modes(model, prompt_set.prompts, params=config.sampling, config=whole_blocks)
            level = both.consensus.report["exactness"]
            texts.append(
                {
                    "prompt_set": name,
                    "dtype": dtype,
                    "answers": _answers(config, prompt_set, both.autoregressive, tokenizer),
                    "acceptance": acceptance(both.consensus),
                    "exactness": {"level": level, **_named(both.comparison, prompt_set)},
                }
            )
    return texts


def _answers(
    config: EvaluateConfig, prompt_set: PromptSet, run: ModeRun, tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, Any] | None:
    if config.prompt_sets[prompt_set.name].score is None:
        return None
    ids = [completion.token_ids for completion in run.completions]
    return score_rows(prompt_set.rows, tokenizer.batch_decode(ids, skip_special_tokens=True))


def acceptance(run: ModeRun) -> dict[str, Any]:
    """Figures of a consensus run; both ratios leave out what the last forward of a prefill emits.

    Returns:
        `accepted_by_position` is, for each draft position, the share accepted of all blocks that long.
    """
    stats = [completion.stats for completion in run.completions]
    tokens, steps, forwards = (
        sum(getattr(row, name) for row in stats) for name in ("step_tokens", "steps", "forwards")
    )
    pairs = zip(run.report["accepted_by_position"], run.report["drafted_by_position"], strict=True)
    return {
        "completion_tokens": sum(row.completion_tokens for row in stats),
        "acceptance_length": tokens / steps if steps else None,
        "tokens_per_forward": tokens / forwards if forwards else None,
        "accepted_by_position": [accepted / drafted for accepted, drafted in pairs],
        "finish_reasons": _count(completion.finish_reason for completion in run.completions),
    }


def _named(comparison: Comparison, prompt_set: PromptSet) -> dict[str, Any]:
    """A comparison with row ids instead of row numbers."""
    named = [
        asdict(difference) | {"row": prompt_set.rows[difference.row].id}
        for difference in comparison.differences
    ]
    return asdict(comparison) | {"differences": named}


def _speed(
    config: EvaluateConfig, checkpoint: Checkpoint, prompt_sets: Mapping[str, PromptSet]
) -> list[dict[str, Any]]:
    """Every load over every set to time."""
    if config.speed is None:
        return []
    model = load(config, checkpoint, config.model.dtype)
    return [
        time_load(config, model, prompt_sets[name], load)
        for name in config.timed_sets
        for load in config.speed.loads
    ]


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write in one atomic step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _count(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
