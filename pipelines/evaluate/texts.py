"""The evaluate job's texts: consensus beside AR, and every system beside itself at another batch."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orthrus_core.engine.sequence import Completion
from orthrus_core.evaluation.exactness import (
    Comparison,
    compare_modes,
    compare_outputs,
    logit_gap,
    wilson_interval,
)
from orthrus_core.evaluation.speed import Measured, Outputs, System, spread
from orthrus_core.evaluation.systems import transformers_system
from orthrus_core.models.model import OrthrusLM
from orthrus_core.request import SamplingParams
from pipelines.evaluate.acceptance import acceptance, accepted_by_position
from pipelines.evaluate.config import EvaluateConfig, ExactnessConfig
from pipelines.evaluate.grades import grade, summary
from pipelines.evaluate.prompts import PromptSet
from pipelines.evaluate.speed import AR, SHOWN, Peers, show_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ITSELF_DTYPE = "bfloat16"  # in which the numbers of others depend on their batch
NAMED_DIFFERENCES = 5

logger = logging.getLogger(__name__)


def compare_texts(
    config: EvaluateConfig,
    model: OrthrusLM,
    tokenizer: "PreTrainedTokenizerBase",
    prompt_set: PromptSet,
    peers: Peers,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a set in the model's dtype, at all temperatures and batches.

    Args:
        peers: engines behind pipes, by name.
    Yields:
        "texts" and a comparison of both modes, or "itself" and one of a system at two batches, as soon as
        it is there.
    """
    assert config.exactness is not None
    dtype = show_dtype(model)
    for params in _samplings(config, config.exactness):
        run = {"prompt_set": prompt_set.name, "dtype": dtype, "temperature": params.temperature}
        kept: list[Outputs] = []
        for batch in _batches(config):
            logger.info("comparing %s batch=%d rows=%d", _shown(run), batch, len(prompt_set.rows))
            text, ar = _both_modes(config, model, tokenizer, prompt_set, params=params, batch=batch)
            kept.append([one.token_ids for one in ar])
            yield "texts", run | {"batch": batch} | text
        batches = _batches(config)[0], _batches(config)[-1]
        if len(kept) > 1:
            yield "itself", run | _itself(AR, kept[-1], kept[0], model, prompt_set, batches)
        if dtype != ITSELF_DTYPE or params.temperature:
            continue
        for name, system in _others(config, model, params, peers):
            logger.info("comparing %s with itself, %s", name, _shown(run))
            first, last = (_outputs(system(batch), prompt_set.prompts) for batch in batches)
            yield "itself", run | _itself(name, last, first, model, prompt_set, batches)


def _samplings(config: EvaluateConfig, exactness: ExactnessConfig) -> list[SamplingParams]:
    temperatures = exactness.temperatures or (config.sampling.temperature,)
    return [config.sampling.model_copy(update={"temperature": one}) for one in temperatures]


def _batches(config: EvaluateConfig) -> tuple[int, ...]:
    assert config.exactness is not None
    return config.exactness.batches or (config.decode.max_sequences,)


def _both_modes(
    config: EvaluateConfig,
    model: OrthrusLM,
    tokenizer: "PreTrainedTokenizerBase",
    prompt_set: PromptSet,
    *,
    params: SamplingParams,
    batch: int,
) -> tuple[dict[str, Any], list[Completion]]:
    """Answers, acceptance and exactness; and AR's completions."""
    # acceptance is the head's in whole blocks
    engine = config.decode.model_copy(update={"block_policy": "fixed", "max_sequences": batch})
    both = compare_modes(model, prompt_set.prompts, params=params, config=engine)
    consensus, ar = both.consensus.completions, both.autoregressive.completions
    score = config.prompt_sets[prompt_set.name].score
    ours, theirs = (grade(score, prompt_set.rows, _decoded(tokenizer, run)) for run in (consensus, ar))
    report = both.consensus.report
    return {
        "answers": None if ours is None or theirs is None else summary(prompt_set.rows, theirs, ours),
        "acceptance": acceptance(consensus) | {"accepted_by_position": accepted_by_position(report)},
        "exactness": {
            "level": report["exactness"],
            "identical_logprobs": both.comparison.identical_logprobs,
            **_named(both.comparison, model, prompt_set, [one.token_ids for one in ar]),
        },
    }, ar


def _itself(
    name: str,
    last: Outputs,
    first: Outputs,
    model: OrthrusLM,
    prompt_set: PromptSet,
    batches: tuple[int, int],
) -> dict[str, Any]:
    """A system's tokens at the last batch beside those at the first."""
    found = _named(compare_outputs(last, first), model, prompt_set, first)
    return {"system": name, "batches": list(batches), **found}


def _decoded(tokenizer: "PreTrainedTokenizerBase", completions: Sequence[Completion]) -> list[str]:
    return tokenizer.batch_decode([one.token_ids for one in completions], skip_special_tokens=True)


def _others(
    config: EvaluateConfig, model: OrthrusLM, params: SamplingParams, peers: Peers
) -> Iterator[tuple[str, Any]]:
    """Systems to compare with themselves, by name: given a batch, a system."""
    assert config.exactness is not None
    if "transformers" in config.exactness.itself:
        name = SHOWN["transformers"]
        yield name, lambda batch: transformers_system(model, params=params, batch_size=batch)
    if "vllm" in config.exactness.itself:
        yield from peers.items()


def _outputs(system: System, prompts: list[list[int]]) -> Outputs:
    result = system(prompts)()
    return result.outputs if isinstance(result, Measured) else result


def _named(
    comparison: Comparison, model: OrthrusLM, prompt_set: PromptSet, reference: Outputs
) -> dict[str, Any]:
    """A comparison with its confidence, where rows part and how near the two best tokens are there.

    Returns:
        `share` of identical rows with its bounds at 95 %, `first_position` and `logit_gap` over the rows that
        part, and the first few of them by row id.
    """
    differences = []
    for one in comparison.differences:
        row = prompt_set.rows[one.row]
        gap = None
        if one.position is not None:
            gap = logit_gap(model, [*row.prompt_ids, *reference[one.row][: one.position]])
        differences.append(asdict(one) | {"row": row.id, "logit_gap": gap})
    positions = [one["position"] for one in differences if one["position"] is not None]
    gaps = [one["logit_gap"] for one in differences if one["logit_gap"] is not None]
    same, rows = comparison.identical_tokens, comparison.rows
    low, high = wilson_interval(same, rows) if rows else (0.0, 1.0)
    return {
        "rows": rows,
        "errors": comparison.errors,
        "identical_tokens": same,
        "share": {"value": same / max(1, rows), "low": low, "high": high},
        "first_position": asdict(spread(positions)) if positions else None,
        "logit_gap": asdict(spread(gaps)) if gaps else None,
        "differences": differences[:NAMED_DIFFERENCES],
    }


def _shown(run: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in run.items())
