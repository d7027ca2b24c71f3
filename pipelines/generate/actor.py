"""The actor that generates: whole units in, several at once, all feeding one engine.

Ray blocks the event loop of async calls at times, so the engine runs in a thread of its own; a call hands it
the requests of a unit and awaits a future.
"""

import asyncio
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.engine import Completion, Request
from orthrus_core.decoding.stats import CompletionStats
from orthrus_core.decoding.stop import cut_text
from pipelines.checkpoint import Checkpoint, fetch, load_tokenizer
from pipelines.generate.columns import (
    COUNTERS,
    ENGINE,
    MAX_NEW_TOKENS,
    PROMPT_IDS,
    ROW_ERROR,
    SHARD,
    UNIT,
    TableLayout,
)
from pipelines.generate.config import SamplingConfig
from pipelines.generate.engine_thread import EngineLike, EngineThread
from pipelines.generate.failures import FailureNotes
from pipelines.generate.watchdog import all_stacks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActorSpec:
    """Everything an actor needs to know, resolved by the driver.

    Attributes:
        dtype: "auto" or a torch dtype's name.
        device: "cpu" or "cuda".
        threads: torch threads.
        failures: where an actor that ends itself says why.
        retries: restarts in a row without a finished unit between them, after which the job gives up.
        step_timeout_s: seconds after which a step of the engine is taken to hang; None: never.
    """

    checkpoint: Checkpoint
    dtype: str
    device: str
    threads: int
    decode: EngineConfig
    sampling: SamplingConfig
    layout: TableLayout
    failures: FailureNotes
    retries: int
    step_timeout_s: float | None = None


EngineFactory = Callable[[ActorSpec], EngineLike]


def load_engine(spec: ActorSpec) -> EngineLike:
    """Load the model and start its engine.

    Raises:
        ConfigError: a checkpoint or a config that does not fit.
    """
    import torch

    import orthrus_core

    torch.set_num_threads(spec.threads)  # Ray sets OMP_NUM_THREADS=1 for actors with less than 2 CPUs
    dtype = spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    model = orthrus_core.load_model(
        fetch(spec.checkpoint),
        dtype=dtype,
        device=spec.device,
        needs_head=spec.decode.mode == "consensus",
    )
    # a tokenizer of its own: those of the tokenizers library are not to be shared between threads
    decoder = TextDecoder(spec.checkpoint.path) if spec.sampling.stop else None
    return orthrus_core.Engine(model, spec.decode, tokenizer=decoder)


class TextDecoder:
    """Turns tokens into the text that is written, for the engine's stop strings too."""

    def __init__(self, path: str):
        """Args: path is the checkpoint's."""
        self._tokenizer = load_tokenizer(path)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens as the model wrote it."""
        text = self._tokenizer.decode(
            token_ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)


class GenerateActor:
    """The dataset stage that generates: one table of prompts in, one table of completions out."""

    def __init__(self, spec: ActorSpec, engine_factory: EngineFactory = load_engine):
        """Load the tokenizer and the engine.

        Args:
            engine_factory: another engine, for tests.
        Raises:
            OrthrusError: the checkpoint or a config does not fit, or actors die again and again.
        """
        started_at = time.perf_counter()
        if _is_restart():
            spec.failures.check_restarts(spec.retries)
        self._spec = spec
        self._name = f"{os.uname().nodename}:{os.getpid()}"
        self._decoder = TextDecoder(spec.checkpoint.path)
        self._params = spec.sampling.params
        self._engine = EngineThread(
            lambda: engine_factory(spec),
            self._end_process,
            step_timeout_s=spec.step_timeout_s,
            on_hung=self._end_hung_process,
        )
        self._exactness = _exactness(spec, self._engine.exactness)
        self._ready_at = time.perf_counter()
        self._load_s = self._ready_at - started_at

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Generate one unit.

        Args:
            table: as `prompts.render_unit` makes it.
        Returns:
            The output columns of the layout, then SHARD, UNIT and ENGINE (json on the first row: counts of
            this unit and figures of the actor so far).
        """
        errors = table.column(ROW_ERROR).to_pylist()
        requests = self._requests(table, errors)
        completions, report = await asyncio.wrap_future(self._engine.submit(requests))
        finished = iter(completions)
        rows = [next(finished) if error is None else _not_run(error) for error in errors]
        facts = {"actor": self._name, "load_s": self._load_s, "ready_s": time.perf_counter() - self._ready_at}
        facts |= {"engine": report | {"exactness": self._exactness}, "counts": count_rows(rows)}
        return self._output(table, rows, json.dumps(facts))

    def _requests(self, table: pa.Table, errors: Sequence[str | None]) -> list[Request]:
        prompts, limits = (table.column(name).to_pylist() for name in (PROMPT_IDS, MAX_NEW_TOKENS))
        return [
            Request(prompt, self._params.model_copy(update={"max_new_tokens": limit}))
            for prompt, limit, error in zip(prompts, limits, errors, strict=True)
            if error is None
        ]

    def _output(self, table: pa.Table, rows: Sequence[Completion], facts: str) -> pa.Table:
        layout, count = self._spec.layout, len(rows)
        columns = {"id": table.column("id"), "sample": [0] * count}
        columns |= {name: table.column(name) for name in layout.carried.names}
        columns |= {name: [getattr(row.stats, name) for row in rows] for name in COUNTERS}
        columns |= {
            "completion": [self._text(row) for row in rows],
            "finish_reason": [row.finish_reason for row in rows],
            "error": [row.error for row in rows],
            "acceptance_length": [row.stats.acceptance_length for row in rows],
            "tokens_per_forward": [row.stats.tokens_per_forward for row in rows],
            "min_logit_gap": [row.stats.min_logit_gap for row in rows],
            "mean_logprob": [_mean_logprob(row) for row in rows],
            "exactness": [self._exactness] * count,
            "seed": [self._params.seed] * count,
            "logprobs": [None if row.error else row.logprobs for row in rows],
            "token_ids": [None if row.error else row.token_ids for row in rows],
            "prompt_token_ids": table.column(PROMPT_IDS),
        }
        output = pa.table([_cast(columns[field.name], field.type) for field in layout.output], layout.output)
        output = output.append_column(SHARD, table.column(SHARD)).append_column(UNIT, table.column(UNIT))
        return output.append_column(ENGINE, pa.array([facts] + [None] * (count - 1), pa.string()))

    def _text(self, row: Completion) -> str | None:
        if row.error is not None:
            return None
        text = self._decoder.decode(row.token_ids)
        return cut_text(text, row.stop_string, include=self._params.include_stop_str)

    def _end_process(self, error: BaseException) -> None:
        """A broken engine (a CUDA error, say) cannot be repaired: end, so that Ray starts a new actor.

        Ray then gives the units of this actor to the new one.
        """
        logger.error("engine_broken actor=%s error=%r", self._name, error)
        try:
            self._spec.failures.write("engine", "".join(traceback.format_exception(error)))
        finally:
            os._exit(1)

    def _end_hung_process(self, seconds: float) -> None:
        """A step that does not come back cannot be ended from outside: end the process, as above."""
        reason = (
            f"the engine hangs: a step took more than {self._spec.step_timeout_s:g} s (run.step_timeout_s)"
        )
        logger.error("engine_hung actor=%s step_s=%.1f", self._name, seconds)
        try:
            self._spec.failures.write("engine", f"{all_stacks()}\n{reason}\n")
        finally:
            os._exit(1)


def count_rows(rows: Sequence[Completion]) -> dict[str, int]:
    """Sums over the rows of a unit, as they stand in the file's footer and in the report."""
    counts = {name: sum(getattr(row.stats, name) for row in rows) for name in (*COUNTERS, "step_tokens")}
    counts |= {"rows": len(rows), "errors": sum(row.error is not None for row in rows)}
    for row in rows:
        key = f"finish_{row.finish_reason}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _exactness(spec: ActorSpec, level: str) -> str:
    """What the rows may claim: sampling by the rejection rule promises no more than AR's distribution."""
    decode = spec.decode
    is_drawn = (
        decode.consensus == "rejection" and decode.mode == "consensus" and spec.sampling.temperature > 0
    )
    return "distribution" if is_drawn else level


def _is_restart() -> bool:
    """Whether Ray started this actor again after it died."""
    import ray

    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and context.was_current_actor_reconstructed


def _not_run(error: str) -> Completion:
    return Completion(-1, [], "error", error, CompletionStats())


def _mean_logprob(row: Completion) -> float | None:
    return row.stats.logprob / len(row.token_ids) if row.token_ids else None


def _cast(values: Any, kind: pa.DataType) -> Any:
    return values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)
