"""The evaluate job's texts: consensus beside AR, and every system beside itself at another batch."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from orthrus_core.engine.sequence import Completion
from orthrus_core.evaluation.exactness import (
    Comparison,
    compare_completions,
    compare_outputs,
    logit_gap,
    wilson_interval,
)
from orthrus_core.evaluation.speed import Measured, Outputs, System, spread
from orthrus_core.models.model import OrthrusLM
from orthrus_core.readiness.engine import Engine
from pipelines.evaluate.acceptance import acceptance, accepted_by_position, counts_since
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.grades import grade, summary
from pipelines.evaluate.prompts import PromptSet
from pipelines.evaluate.speed import AR, Peers, show_dtype, transformers_peers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ITSELF_DTYPE = "bfloat16"  # in which the numbers of others depend on their batch
NAMED_DIFFERENCES = 5

Key = tuple[str, float]  # prompt set and temperature
Figures = tuple[str, dict[str, Any]]

logger = logging.getLogger(__name__)


class Texts:
    """Everything that is compared in one dtype; an engine serves all sets and temperatures."""

    def __init__(
        self,
        config: EvaluateConfig,
        model: OrthrusLM,
        tokenizer: "PreTrainedTokenizerBase",
        prompt_sets: Mapping[str, PromptSet],
    ):
        assert config.exactness is not None
        self._config, self._model, self._tokenizer, self._sets = config, model, tokenizer, prompt_sets
        self._dtype = show_dtype(model)
        self._batches = config.exactness.batches or (config.decode.max_sequences,)
        temperatures = config.exactness.temperatures or (config.sampling.temperature,)
        self._samplings = [config.sampling.model_copy(update={"temperature": one}) for one in temperatures]

    def compare(self, peers: Peers) -> Iterator[Figures]:
        """Decode all sets at all temperatures and batches.

        Args:
            peers: engines behind pipes.
        Yields:
            "texts" and a comparison of both modes, or "itself" and one of a system at two batches, as soon
            as it is there.
        """
        first: dict[Key, Outputs] = {}
        for batch in self._batches:
            for key, text, ar in self._both_modes(batch):
                yield "texts", self._run(key) | {"batch": batch} | text
                if key not in first:
                    first[key] = ar
                elif batch == self._batches[-1]:
                    yield "itself", self._run(key) | self._itself(AR, self._sets[key[0]], ar, first[key])
        if self._dtype == ITSELF_DTYPE:
            yield from self._others(peers)

    def _run(self, key: Key) -> dict[str, Any]:
        return {"prompt_set": key[0], "dtype": self._dtype, "temperature": key[1]}

    def _both_modes(self, batch: int) -> Iterator[tuple[Key, dict[str, Any], Outputs]]:
        """Of every set and temperature answers, acceptance and exactness; and AR's tokens."""
        consensus_runs = self._decode(self._engine("consensus", batch))
        ours = {key: (done, report) for key, done, report in consensus_runs}
        for key, ar, _ in self._decode(self._engine("autoregressive", batch)):
            consensus, report = ours.pop(key)
            tokens = [one.token_ids for one in ar]
            yield key, self._text(self._sets[key[0]], consensus, ar, report), tokens

    def _engine(self, mode: Literal["consensus", "autoregressive"], batch: int) -> Engine:
        """In whole blocks, so that acceptance is the head's."""
        changes = {"mode": mode, "block_policy": "fixed", "max_sequences": batch}
        return Engine(self._model, self._config.decode.model_copy(update=changes))

    def _decode(self, engine: Engine) -> Iterator[tuple[Key, list[Completion], dict[str, Any]]]:
        """Completions of every set at every temperature, and the engine's report of them alone."""
        for name, prompt_set in self._sets.items():
            for params in self._samplings:
                logger.info(
                    "decoding prompt_set=%s dtype=%s temperature=%g mode=%s batch=%d rows=%d",
                    *(name, self._dtype, params.temperature, engine.config.mode),
                    *(engine.config.max_sequences, len(prompt_set.rows)),
                )
                engine.forget_prompts()
                before = engine.report()
                completions = engine.generate(prompt_set.prompts, params)
                yield (name, params.temperature), completions, counts_since(before, engine.report())

    def _text(
        self,
        prompt_set: PromptSet,
        consensus: Sequence[Completion],
        ar: Sequence[Completion],
        report: Mapping[str, Any],
    ) -> dict[str, Any]:
        comparison = compare_completions(consensus, ar)
        score = self._config.prompt_sets[prompt_set.name].score
        ours, theirs = (grade(score, prompt_set.rows, self._decoded(run)) for run in (consensus, ar))
        return {
            "answers": None if ours is None or theirs is None else summary(prompt_set.rows, theirs, ours),
            "acceptance": acceptance(consensus) | {"accepted_by_position": accepted_by_position(report)},
            "exactness": {
                "level": report["exactness"],
                "identical_logprobs": comparison.identical_logprobs,
                **self._named(comparison, prompt_set, [one.token_ids for one in ar]),
            },
        }

    def _decoded(self, completions: Sequence[Completion]) -> list[str]:
        return self._tokenizer.batch_decode([one.token_ids for one in completions], skip_special_tokens=True)

    def _others(self, peers: Peers) -> Iterator[Figures]:
        """Each of the others beside itself, greedy."""
        greedy = self._config.sampling.model_copy(update={"temperature": 0.0})
        known = {**transformers_peers(self._model, greedy), **peers}
        asked = () if self._config.exactness is None else self._config.exactness.itself
        for name, new_system in [known[name] for name in asked if name in known]:
            for prompt_set in map(self._with_room, self._sets.values()):
                logger.info("comparing %s with itself, prompt_set=%s", name, prompt_set.name)
                ends = self._batches[0], self._batches[-1]
                first, last = (_outputs(new_system(batch), prompt_set.prompts) for batch in ends)
                key = prompt_set.name, greedy.temperature
                yield "itself", self._run(key) | self._itself(name, prompt_set, last, first)

    def _with_room(self, prompt_set: PromptSet) -> PromptSet:
        """The rows that leave room for all new tokens, since others know no max_context or refuse them."""
        most = self._config.decode.max_context - self._config.sampling.max_new_tokens
        return replace(prompt_set, rows=tuple(row for row in prompt_set.rows if len(row.prompt_ids) <= most))

    def _itself(self, name: str, prompt_set: PromptSet, last: Outputs, first: Outputs) -> dict[str, Any]:
        """A system's tokens at the last batch beside those at the first."""
        found = self._named(compare_outputs(last, first), prompt_set, first)
        return {"system": name, "batches": [self._batches[0], self._batches[-1]], **found}

    def _named(self, comparison: Comparison, prompt_set: PromptSet, reference: Outputs) -> dict[str, Any]:
        """A comparison with its confidence, where rows part and how near the two best tokens are there.

        Returns:
            `share` of identical rows with its bounds at 95 %, `first_position` and `logit_gap` over the rows
            that part, and the first few of them by row id.
        """
        differences = []
        for one in comparison.differences:
            row = prompt_set.rows[one.row]
            gap = None
            if one.position is not None:
                gap = logit_gap(self._model, [*row.prompt_ids, *reference[one.row][: one.position]])
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


def _outputs(system: System, prompts: list[list[int]]) -> Outputs:
    result = system(prompts)()
    return result.outputs if isinstance(result, Measured) else result
