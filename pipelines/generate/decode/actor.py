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
from dataclasses import replace
from typing import Any

import pyarrow as pa

from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.stats import CompletionStats
from orthrus_core.request import Request
from pipelines.checkpoint.directory import fetch, load_tokenizer
from pipelines.cluster.board import Board, UnitKey
from pipelines.generate.audit.auditor import Auditor
from pipelines.generate.config.sampling import SamplingConfig
from pipelines.generate.decode.agreement import load_alike
from pipelines.generate.decode.dedup import Deduplicator, SharedBatch
from pipelines.generate.decode.gate import UnitGate
from pipelines.generate.decode.requests import RequestBuilder, SampleRow, prefix_order
from pipelines.generate.decode.results import ResultWriter
from pipelines.generate.decode.spec import ActorSpec
from pipelines.generate.decode.texts import TextDecoder, needs_text
from pipelines.generate.decode.turns import TurnTaker
from pipelines.generate.engine.thread import EngineLike, EngineThread
from pipelines.generate.engine.watchdog import all_stacks
from pipelines.generate.prompt.renderer import Prompt, PromptRenderer
from pipelines.generate.watch.metrics import (
    EngineReporter,
    LiveRows,
    RayMetrics,
    Readings,
    UnitTally,
    live,
    readings,
)
from pipelines.generate.write.unit_file import count_rows
from pipelines.read.columns import ENGINE, SHARD, UNIT
from pipelines.storage.config import use_storage

CUBLAS_SETTINGS = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}
ROOM = 3  # times max_sequences: so many rows are left, running and waiting, when the next unit enters

logger = logging.getLogger(__name__)


EngineFactory = Callable[[ActorSpec], EngineLike]


def load_engine(spec: ActorSpec) -> EngineLike:
    """Load the model and start its engine.

    Raises:
        ConfigError: a checkpoint or a config that does not fit.
    """
    import torch

    import orthrus_core
    from orthrus_core.readiness.drafter import quantise_on_trial

    if spec.device == "cuda":  # read when CUDA starts: without room, no product is split over K by its rows
        for name, value in CUBLAS_SETTINGS.items():
            os.environ.setdefault(name, value)
    torch.set_num_threads(spec.threads)  # Ray sets OMP_NUM_THREADS=1 for actors with less than 2 CPUs
    dtype = spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    model = orthrus_core.load_model(
        fetch(spec.checkpoint),
        dtype=dtype,
        device=spec.device if spec.weights == "auto" else "cpu",
        needs_head=spec.decode.needs_head,
        lora=None if spec.adapter is None else fetch(spec.adapter),
    )
    if spec.weights != "auto":
        model = quantise_on_trial(
            model,
            spec.weights,
            output_head=spec.quantise_output_head,
            device=spec.device,
            prompts=spec.trial_prompts,
            memory=spec.decode.memory,
        )
    # a tokenizer of its own: those of the tokenizers library are not to be shared between threads
    decoder = TextDecoder(spec.checkpoint.source) if needs_text(spec.sampling) else None
    return orthrus_core.Engine(model, spec.decode, tokenizer=decoder)


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
        use_storage(spec.storage)
        if _is_restart():
            spec.failures.check_restarts(spec.retries)
        self._spec = spec
        self._name = f"{os.uname().nodename}:{os.getpid()}"
        if spec.board is not None:
            spec.board.post(self._name, {"state": "loading"})
        self._engine = EngineThread(
            lambda: load_alike(spec, engine_factory),
            self._end_process,
            step_timeout_s=spec.step_timeout_s,
            on_hung=self._end_hung_process,
        )
        self._requests = RequestBuilder(spec.sampling)
        self._complete = self._generate_all
        if spec.dedup_tokens is not None:
            self._complete = Deduplicator(self._engine.submit, spec.dedup_tokens).run
        level, sampled_level = _exactness(spec, self._engine.exactness)
        decoder = TextDecoder(spec.checkpoint.source)
        self._results = ResultWriter(spec.layout, decoder, level=level, sampled_level=sampled_level)
        self._turns: TurnTaker | None = None
        if spec.prompt is not None:
            tokenizer = load_tokenizer(spec.checkpoint.source)
            renderer = PromptRenderer(tokenizer, spec.prompt, spec.decode.max_context)
            self._turns = TurnTaker(self._complete, renderer, self._results.text)
        self._exactness = sampled_level if _is_sampled(spec.sampling) else level
        self._ready_at = time.perf_counter()
        self._load_s = self._ready_at - started_at
        self._unit_done_at = time.time()
        self._auditor = Auditor(spec.audit, self._engine, spec.decode)
        self._positions: dict[str, list[int]] = {}  # drafted and accepted so far
        self._tally = UnitTally()
        self._rows = LiveRows(lambda: self._engine.finished_share)
        self._gate: UnitGate | None = None
        if spec.board is not None:
            self._open(spec.board)

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Generate one unit.

        Args:
            table: as `prompt.unit.render_unit` makes it.
        Returns:
            One row for each sample: the output columns of the layout, then SHARD, UNIT, PLACE and ENGINE
            (json on the first row: counts of this unit and figures of the actor so far).
        """
        rows = self._requests.sample_rows(table)
        with self._auditor.call():
            batch, audit, facts = await self._generate(
                table, [row for row in rows if row.request is not None]
            )
        finished = iter(batch.completions)
        completions = [_not_run(row.error) if row.error is not None else next(finished) for row in rows]
        self._tally.add([row.error for row in rows], [completion.error for completion in completions])
        output = self._results.table(table, rows, completions)
        counts = count_rows(output) | {"rows_in": table.num_rows} | _count_copies(batch)
        facts |= {"engine": batch.report | {"exactness": self._exactness}, "counts": counts, "audit": audit}
        cells = [json.dumps(facts)] + [None] * (len(rows) - 1)
        return output.append_column(ENGINE, pa.array(cells, pa.string()))

    async def _generate(
        self, table: pa.Table, rows: Sequence[SampleRow]
    ) -> tuple[SharedBatch, dict[str, Any], dict[str, Any]]:
        """Complete a unit's rows; with what the audit found, and when all of this was."""
        shard, unit = (table.column(name)[0].as_py() for name in (SHARD, UNIT))
        ids = table.column("id").take(pa.array([row.row for row in rows], pa.int64())).to_pylist()
        requests = self._auditor.prepare(shard, unit, [row.request for row in rows if row.request])
        batch = await self._run((shard, unit), requests, [row.prompt for row in rows], table.num_rows)
        facts = {"actor": self._name, "load_s": self._load_s, "positions": self._new_positions(batch.report)}
        facts |= {"ready_s": time.perf_counter() - self._ready_at, **self._unit_times()}
        busy_s = batch.report["busy_s"]
        audit = await self._auditor.finish(shard, unit, ids, requests, batch.completions, busy_s=busy_s)
        return batch, audit, facts

    def _open(self, board: Board) -> None:
        """Ask the board before units begin from now on, and tell it and Ray's metrics how things stand."""
        room = ROOM * self._spec.decode.max_sequences
        self._gate = gate = UnitGate(board, lambda: self._engine.num_unfinished, room)
        tags = {"run": self._spec.run, "actor": self._name, "device": self._spec.device}

        def read() -> Readings:
            ready_s = time.perf_counter() - self._ready_at
            return readings(self._engine.report(), self._tally.totals(queue_units=gate.waiting), ready_s)

        def post(now: Readings) -> None:
            board.post(self._name, live(now, self._rows))
            if board.is_closed():
                _end_actor()

        self._reporter = EngineReporter(read, RayMetrics(tags).update, post)

    def _unit_times(self) -> dict[str, float]:
        """When this unit was done and the one before it, seconds since 1970: its tokens are of that time."""
        began, self._unit_done_at = self._unit_done_at, time.time()
        return {"session": self._spec.session, "began": began, "at": self._unit_done_at}

    def _new_positions(self, report: dict[str, Any]) -> dict[str, list[int]]:
        """Drafts by position since the last unit, so that sums over units are those of all sessions."""
        now = {name: list(report.get(f"{name}_by_position") or []) for name in ("drafted", "accepted")}
        before, self._positions = self._positions, now
        return {name: _difference(values, before.get(name, [])) for name, values in now.items()}

    async def _run(
        self, unit: UnitKey, requests: Sequence[Request], prompts: Sequence[Prompt | None], num_rows: int
    ) -> SharedBatch:
        """Wait until the unit may begin, and complete its requests, and the turns behind their prompts."""
        order = prefix_order(requests) if self._spec.group_prefixes else range(len(requests))
        requests = [replace(requests[place], on_tokens=self._rows.count) for place in order]
        if self._gate is not None:
            await self._gate.enter(unit, len(requests))
        if self._turns is None:
            work = asyncio.ensure_future(self._complete(requests))
        else:
            work = asyncio.ensure_future(self._turns.run(requests, [prompts[place] for place in order]))
            await asyncio.sleep(0)  # a task for each row begins
        await asyncio.sleep(0)  # its first step submits the requests
        if self._gate is not None:
            self._gate.arrived(len(requests))
        with self._rows.unit(num_rows):
            return (await work).put_back(order)

    async def _generate_all(self, requests: Sequence[Request]) -> SharedBatch:
        completions, report = await asyncio.wrap_future(self._engine.submit(requests))
        return SharedBatch(completions, report, [False] * len(requests))

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


def _exactness(spec: ActorSpec, level: str) -> tuple[str, str]:
    """What rows may claim: greedy ones, and those with a temperature.

    Sampling by the rejection rule promises no more than AR's distribution.
    """
    decode = spec.decode
    is_drawn = decode.consensus == "rejection" and decode.mode == "consensus"
    return level, "distribution" if is_drawn else level


def _is_sampled(sampling: SamplingConfig) -> bool:
    return sampling.temperature > 0 or sampling.columns.temperature is not None


def _count_copies(batch: SharedBatch) -> dict[str, int]:
    """How many rows were not generated, and the tokens that the engine was spared."""
    copies = [c for c, is_copy in zip(batch.completions, batch.is_copy, strict=True) if is_copy]
    tokens = sum(completion.stats.completion_tokens for completion in copies)
    return {"deduplicated": len(copies), "deduplicated_tokens": tokens}


def _end_actor() -> None:
    """End this actor for good: Ray does not start it again."""
    import ray

    ray.kill(ray.get_runtime_context().current_actor)


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
