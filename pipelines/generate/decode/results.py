"""Completions to output columns."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orthrus_core.engine.sequence import Completion
from orthrus_core.request import SamplingParams
from orthrus_core.text.stop_strings import cut_text
from pipelines.generate.decode.requests import SampleRow
from pipelines.generate.decode.texts import TextDecoder
from pipelines.generate.engine.conversation import Conversation, Turn
from pipelines.read.arrow_types import bring_to
from pipelines.read.columns import (
    COUNTERS,
    PLACE,
    PREFILL,
    PROMPT_IDS,
    PROMPT_TOKENS,
    SHARD,
    TRUNCATED,
    UNIT,
    TableLayout,
)


class ResultWriter:
    """Makes the table of a unit's results.

    Attributes:
        level: exactness of greedy rows.
        sampled_level: of rows with a temperature.
    """

    def __init__(self, layout: TableLayout, decoder: TextDecoder, *, level: str, sampled_level: str):
        self._layout = layout
        self._decoder = decoder
        self.level = level
        self.sampled_level = sampled_level

    def table(self, unit: pa.Table, rows: Sequence[SampleRow], completions: Sequence[Completion]) -> pa.Table:
        """One row for each sample.

        Args:
            unit: as `prompt.unit.render_unit` makes it.
            rows, completions: side by side, in the order of the output.
        Returns:
            The output columns of the layout, then SHARD, UNIT and PLACE.
        """
        source = pa.array([row.row for row in rows], pa.int64())
        hidden = (SHARD, UNIT, PLACE, PROMPT_IDS, TRUNCATED, PROMPT_TOKENS, PREFILL)
        carried = [self._layout.within(name) for name in self._layout.carried.names]
        given = unit.select(["id", *carried, *hidden]).take(source)
        columns = {name: given.column(name) for name in ("id", *carried)}
        columns |= {"sample": [row.sample for row in rows], "seed": [row.params.seed for row in rows]}
        columns |= {"prompt_token_ids": given.column(PROMPT_IDS), "truncated_tokens": given.column(TRUNCATED)}
        columns["exactness"] = [self._exactness(*both) for both in zip(rows, completions, strict=True)]
        columns |= self._results(rows, completions)
        prefills = given.column(PREFILL).to_pylist()
        if self._layout.completions:
            columns |= self._of_turns(completions, prefills)
        else:
            told = zip(rows, completions, prefills, strict=True)
            columns["completion"] = [_behind(fill, self.text(row.params, one)) for row, one, fill in told]
        counted = zip(completions, given.column(PROMPT_TOKENS).to_pylist(), strict=True)
        columns["prompt_tokens"] = [one.stats.prompt_tokens or tokens for one, tokens in counted]
        columns |= {name: [None] * len(rows) for name in self._layout.made.names}
        schema = self._layout.output
        output = pa.table([_cast(columns[field.name], field.type) for field in schema], schema)
        for name in (SHARD, UNIT, PLACE):
            output = output.append_column(name, given.column(name))
        return output

    def _results(self, rows: Sequence[SampleRow], completions: Sequence[Completion]) -> dict[str, Any]:
        stats = [completion.stats for completion in completions]

        def of_fine(name: str) -> list[Any]:
            return [getattr(one, name) if one.error is None else None for one in completions]

        return {name: [getattr(one, name) for one in stats] for name in COUNTERS} | {
            "finish_reason": [completion.finish_reason for completion in completions],
            "error": [completion.error for completion in completions],
            "acceptance_length": [one.acceptance_length for one in stats],
            "tokens_per_forward": [one.tokens_per_forward for one in stats],
            "min_logit_gap": [one.min_logit_gap for one in stats],
            "mean_logprob": [_mean_logprob(completion) for completion in completions],
            "logprobs": of_fine("logprobs"),
            "top_logprobs": of_fine("top_logprobs"),
            "prompt_logprobs": of_fine("prompt_logprobs"),
            "prompt_perplexity": [_perplexity(logprobs) for logprobs in of_fine("prompt_logprobs")],
            "token_ids": of_fine("token_ids"),
        }

    def _exactness(self, row: SampleRow, completion: Completion) -> str | None:
        if completion.error is not None:
            return None
        return self.sampled_level if row.params.temperature > 0 else self.level

    def text(self, params: SamplingParams, completion: Completion) -> str | None:
        """What a completion says, without a prefill; None on error."""
        if completion.error is not None:
            return None
        text = self._decoder.decode(completion.token_ids)
        return cut_text(text, completion.stop_string, include=params.include_stop_str)

    def _of_turns(
        self, completions: Sequence[Completion], prefills: Sequence[str | None]
    ) -> dict[str, list[Any]]:
        """What is other where rows have several turns: they end with the last one's answer."""
        rows = [one.turns if isinstance(one, Conversation) else () for one in completions]
        told = [
            [self._answer(turn, is_shown=prefill is not None) for turn in turns if turn.text is not None]
            for turns, prefill in zip(rows, prefills, strict=True)
        ]
        ends = zip(completions, told, strict=True)
        return {
            "completions": told,
            "completion": [answers[-1]["text"] if one.error is None else None for one, answers in ends],
            "truncated_tokens": [sum(turn.truncated_tokens for turn in turns) for turns in rows],
            "prompt_token_ids": [turns[-1].request.prompt_ids if turns else None for turns in rows],
        }

    def _answer(self, turn: Turn, *, is_shown: bool) -> dict[str, Any]:
        one, layout = turn.completion, self._layout
        return {
            "text": _behind(turn.prefill if is_shown else None, turn.text),
            "finish_reason": one.finish_reason,
            "prompt_tokens": one.stats.prompt_tokens,
            "truncated_tokens": turn.truncated_tokens,
            "cached_tokens": one.stats.cached_tokens,
            "completion_tokens": one.stats.completion_tokens,
            "token_ids": one.token_ids if layout.token_ids else None,
            "logprobs": one.logprobs if layout.logprobs else None,
            "top_logprobs": one.top_logprobs if layout.top_logprobs else None,
        }


def _perplexity(logprobs: Sequence[float | None] | None) -> float | None:
    """Of a prompt, by its tokens' log-probabilities; the first has none."""
    if logprobs is None or len(logprobs) < 2:
        return None
    return math.exp(-math.fsum(one for one in logprobs if one is not None) / (len(logprobs) - 1))


def _mean_logprob(completion: Completion) -> float | None:
    stats = completion.stats
    return stats.logprob / stats.completion_tokens if stats.completion_tokens else None


def _behind(prefill: str | None, text: str | None) -> str | None:
    return text if text is None else (prefill or "") + text


def _cast(values: Any, kind: pa.DataType) -> Any:
    return bring_to(values, kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)
