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
from pipelines.generate.audit import Auditor
from pipelines.generate.audit_plan import AuditPlan
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
from pipelines.generate.unit_facts import unit_facts

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
        audit: which rows are decoded again.
        group_by: carried columns that the report groups by.
        session: when the driver started, seconds since 1970; units of one session have the same.
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
    audit: AuditPlan = AuditPlan()
    group_by: tuple[str, ...] = ()
    session: float = 0.0


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
        self._engine = EngineThread(lambda: engine_factory(spec), self._end_process)
        self._auditor = Auditor(spec.audit, self._engine, spec.decode)
        self._positions: dict[str, list[int]] = {}  # drafted and accepted so far
        self._exactness = _exactness(spec, self._engine.exactness)
        self._ready_at = time.perf_counter()
        self._load_s = self._ready_at - started_at
        self._unit_done_at = time.time()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Generate one unit.

        Args:
            table: as `prompts.render_unit` makes it.
        Returns:
            The output columns of the layout, then SHARD, UNIT and ENGINE (json on the first row: counts of
            this unit and figures of the actor so far).
        """
        shard, unit = (table.column(name)[0].as_py() for name in (SHARD, UNIT))
        errors = table.column(ROW_ERROR).to_pylist()
        ids = [i for i, error in zip(table.column("id").to_pylist(), errors, strict=True) if error is None]
        with self._auditor.call():
            requests = self._auditor.prepare(shard, unit, self._requests(table, errors))
            completions, report = await asyncio.wrap_future(self._engine.submit(requests))
            facts = {"actor": self._name, "load_s": self._load_s}
            facts |= {"ready_s": time.perf_counter() - self._ready_at, **self._unit_times()}
            positions = self._new_positions(report)
            audit = await self._auditor.finish(
                shard, unit, ids, requests, completions, busy_s=report["busy_s"]
            )
        finished = iter(completions)
        rows = [next(finished) if error is None else _not_run(error) for error in errors]
        output = self._output(table, rows)
        facts |= {"engine": report | {"exactness": self._exactness}, "counts": count_rows(rows)}
        facts |= {"audit": audit, "positions": positions, **unit_facts(output, self._spec.group_by)}
        cells = [json.dumps(facts)] + [None] * (output.num_rows - 1)
        return output.append_column(ENGINE, pa.array(cells, pa.string()))

    def _requests(self, table: pa.Table, errors: Sequence[str | None]) -> list[Request]:
        prompts, limits = (table.column(name).to_pylist() for name in (PROMPT_IDS, MAX_NEW_TOKENS))
        return [
            Request(prompt, self._params.model_copy(update={"max_new_tokens": limit}))
            for prompt, limit, error in zip(prompts, limits, errors, strict=True)
            if error is None
        ]

    def _unit_times(self) -> dict[str, float]:
        """When this unit was done and the one before it, seconds since 1970: its tokens are of that time."""
        began, self._unit_done_at = self._unit_done_at, time.time()
        return {"session": self._spec.session, "began": began, "at": self._unit_done_at}

    def _new_positions(self, report: dict[str, Any]) -> dict[str, list[int]]:
        """Drafts by position since the last unit, so that sums over units are those of all sessions."""
        now = {name: list(report.get(f"{name}_by_position") or []) for name in ("drafted", "accepted")}
        before, self._positions = self._positions, now
        return {name: _difference(values, before.get(name, [])) for name, values in now.items()}

    def _output(self, table: pa.Table, rows: Sequence[Completion]) -> pa.Table:
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
        return output.append_column(SHARD, table.column(SHARD)).append_column(UNIT, table.column(UNIT))

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


def _difference(now: Sequence[int], before: Sequence[int]) -> list[int]:
    return [value - (before[i] if i < len(before) else 0) for i, value in enumerate(now)]


def _mean_logprob(row: Completion) -> float | None:
    return row.stats.logprob / len(row.token_ids) if row.token_ids else None


def _cast(values: Any, kind: pa.DataType) -> Any:
    return values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)
