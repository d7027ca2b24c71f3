"""The engine: requests in, completions out, in steps that many sequences share."""

import itertools
import time
from collections.abc import Sequence as SequenceOf
from typing import Any

from orthrus_core.cache import PagePool, PageTables
from orthrus_core.decoding.admission import Admission, check_context, check_model, drafted_block_size
from orthrus_core.decoding.compilation import should_compile
from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.draft import Draft, draft, draft_with_odds
from orthrus_core.decoding.health import DraftAlarm, LogitHealth, broken_logits
from orthrus_core.decoding.prompts import Prompt, new_requests, with_text
from orthrus_core.decoding.runner import VIEWS, ModelRunner
from orthrus_core.decoding.sampling import Request, SamplingParams
from orthrus_core.decoding.scheduler import Scheduler, Step, Work
from orthrus_core.decoding.sequence import Completion
from orthrus_core.decoding.startup import get_ready
from orthrus_core.decoding.stats import CompletionStats, EngineStats
from orthrus_core.decoding.stop import cut_at_stop
from orthrus_core.decoding.verify import Verdict, verify
from orthrus_core.models.model import OrthrusLM

__all__ = [
    "Completion",
    "CompletionStats",
    "Engine",
    "EngineConfig",
    "Request",
    "SamplingParams",
]

ALARM_STEPS = 200  # few, since adaptive blocks hardly ever try a head that drafts badly


class Engine:
    """Decodes many requests over one model and one paged cache.

    Every forward has one of a few budgets of rows that are known to agree bit for bit, so a token's logits
    depend on its own sequence alone: the text of a request is the same in both modes, alone or in traffic,
    whatever its neighbours do.

    Attributes:
        config: as given.
        exactness: "exact" when permuted token rows agreed bit for bit at start-up, else "unverified".
        costs: the budgets that forwards may have, and the seconds that they take.
        cache: keys and values.
        stats: counters since the start.
    """

    def __init__(
        self,
        model: OrthrusLM,
        config: EngineConfig | None = None,
        tokenizer: Any | None = None,
        *,
        draft: Draft | None = None,
    ):
        """Allocate the cache and check exactness.

        Args:
            tokenizer: of transformers, for `generate` from and to text, stop strings and grammars; something
                that can only `decode` does for stop strings, and with a `backend_tokenizer` for grammars.
            draft: another draft step than the real one, for measurements.
        Raises:
            ConfigError: the model has no second view, or the config does not fit it.
        """
        check_model(model)
        self.config = config or EngineConfig()
        self.block_size = drafted_block_size(self.config, model)
        check_context(self.config, model)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._admission = Admission(model, self.config, tokenizer)
        self._draft = draft
        pool = PagePool(self.config.total_pages, self.config.page_size)
        self._tables = tables = PageTables(
            pool, num_slots=self.config.max_sequences, pages_per_sequence=self.config.pages_per_sequence
        )
        self._runner = ModelRunner(model, tables)
        num_layers = model.config.num_hidden_layers
        if should_compile(self.config, device_type=model.device.type, num_layers=num_layers):
            self._runner.compile(("ar",) if self.config.mode == "autoregressive" else VIEWS)
        ready = get_ready(self._runner, tables, self.config, head_block_size=model.config.block_size)
        self.exactness = ready.exactness
        self.costs = ready.costs
        self.cache = self._runner.cache
        self._scheduler = Scheduler(self.config, tables, block_size=self.block_size, costs=ready.costs)
        self._ids = itertools.count()
        self._rejected: list[Completion] = []
        self.stats = EngineStats()
        self._draft_alarm = DraftAlarm(num_steps=ALARM_STEPS)
        self._logit_health = LogitHealth()

    def submit(self, request: Request) -> int:
        """Queue a request and return its id.

        A request that cannot run does not raise: it comes back from the next `step` with finish_reason
        "error".
        """
        request_id = next(self._ids)
        sequence = self._admission.new_sequence(request_id, request)
        error = self._admission.reason_to_reject(sequence)
        if error is None:
            self._scheduler.add(sequence)
        else:
            self._rejected.append(sequence.complete("error", error))
        return request_id

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to return."""
        return bool(self._rejected or self._scheduler.running or self._scheduler.num_waiting)

    def cancel(self, request_id: int) -> bool:
        """Drop a request that has not finished; whether there was one."""
        return self._scheduler.remove(request_id)

    def forget_prompts(self) -> None:
        """Share no page with prompts from before, so that repeated work costs the same again."""
        self._tables.pool.forget_prefixes()

    def step(self) -> list[Completion]:
        """Advance all running sequences by one step and return the requests that ended.

        Raises:
            EngineError: the logits of all of them are NaN or infinite, and not for one prompt's sake.
        """
        started_at = time.perf_counter()
        finished, self._rejected = self._rejected, []
        step = self._scheduler.plan()
        works = step.works
        if works:
            verdicts = self._judge(step)
            self._check_logits(works, verdicts)
            self._scheduler.observe(
                works,
                [verdict.num_accepted for verdict in verdicts],
                seconds=time.perf_counter() - started_at,
            )
            self._count_step(works, verdicts)
            finished += [
                completion
                for work, verdict in zip(works, verdicts, strict=True)
                if (completion := self._commit(work, verdict)) is not None
            ]
            self._scheduler.index_prompts(works)
        self.stats.busy_s += time.perf_counter() - started_at
        return finished

    def _judge(self, step: Step) -> list[Verdict]:
        """Draft where works ask for it, and verify."""
        mask_token_id = self._model.config.mask_token_id
        works, T = step.works, step.draft_budget
        draft_ids, odds = None, None
        started_at = time.perf_counter()
        if T and self.config.consensus == "rejection":
            draft_ids, odds = draft_with_odds(self._runner, works, mask_token_id, token_budget=T)
        elif T:
            propose = self._draft or draft
            draft_ids = propose(self._runner, works, mask_token_id, token_budget=T)
        drafted_at = time.perf_counter()
        verdicts = verify(self._runner, works, draft_ids, odds, token_budget=step.verify_budget)
        self.stats.count_seconds(
            drafted_at - started_at,
            time.perf_counter() - drafted_at,
            num_prefill=sum(work.num_prefill for work in works),
            num_rows=sum(work.num_verify_rows for work in works),
        )
        return verdicts

    def _check_logits(self, works: list[Work], verdicts: list[Verdict]) -> None:
        if any(verdict.broken_row is None for verdict in verdicts):
            self._logit_health.step_was_sound()
            return
        sequences = [work.sequence for work in works]
        prompts = [sequence.token_ids[: sequence.num_prompt] for sequence in sequences]
        num_others = self._scheduler.num_waiting + len(self._scheduler.running) - len(sequences)
        self._logit_health.every_sequence_broke(prompts, others_wait=num_others > 0)

    def run(self, requests: SequenceOf[Request]) -> list[Completion]:
        """Submit requests and step until all of them ended; completions in the order given."""
        ids = [self.submit(request) for request in requests]
        done: dict[int, Completion] = {}
        while len(done) < len(ids):
            done.update((completion.request_id, completion) for completion in self.step())
        return [done[request_id] for request_id in ids]

    def generate(
        self,
        prompts: SequenceOf[Prompt],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
        *,
        num_samples: int = 1,
    ) -> list[Completion]:
        """Complete prompts in order.

        Args:
            prompts: each a text, taken as it is, a list of messages, which go through the chat template, or a
                list of token ids. The first two need the engine's tokenizer; with one, completions have
                `text`.
            params: one for all or one per prompt; None: the defaults.
            num_samples: completions per prompt, which differ where a temperature is asked for. They share the
                prompt's pages.
        Returns:
            All samples of the first prompt, then those of the second, and so on.
        Raises:
            ConfigError: prompts or params of another kind or number.
        """
        requests = new_requests(prompts, params, num_samples=num_samples, tokenizer=self._tokenizer)
        return [
            with_text(completion, request, self._tokenizer)
            for completion, request in zip(self.run(requests), requests, strict=True)
        ]

    def report(self) -> dict:
        """Return what a manifest or a run report says about this engine."""
        return self.stats.to_dict() | {
            "mode": self.config.mode,
            "exactness": self.exactness,
            "token_budget": self.costs.budgets[-1],
            "budgets": list(self.costs.budgets),
            "draft_s": list(self.costs.draft_s),
            "verify_s": list(self.costs.verify_s),
            "compiled": self._runner.is_compiled,
            "block_size": self.block_size,
            "attention": self._runner.backend.name,
            "page_size": self.config.page_size,
            "num_pages": self.config.total_pages,
            "cache_bytes_per_token": self.cache.bytes_per_token,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._model.device),
            "preemptions": self._scheduler.num_preemptions,
            "prefix_tokens": self._scheduler.num_prefix_tokens,
            "drafter_alarm": self._draft_alarm.is_on,
            "slots": {"total": self.config.max_sequences, "busy": len(self._scheduler.running)},
            "pages": {"total": self.config.total_pages - 1, "free": self._tables.pool.num_available},
            "waiting": len(self._scheduler.waiting),
        }

    def _commit(self, work: Work, verdict: Verdict) -> Completion | None:
        """Append what the step emitted to its sequence; return the completion if it ended."""
        sequence = work.sequence
        first_position = sequence.num_committed
        sequence.num_committed += work.num_prefill
        if not work.has_anchor and verdict.broken_row is None:
            return None
        token_ids, grammar = verdict.token_ids, sequence.grammar
        if grammar is not None:
            token_ids = token_ids[: grammar.advance(token_ids)]
        emitted, reason = cut_at_stop(
            token_ids,
            stop_ids=sequence.stop_ids,
            length_left=sequence.params.max_new_tokens - sequence.num_emitted,
            context_left=self.config.max_context - len(sequence.token_ids),
            stop_strings=sequence.stop_strings,
        )
        error = None
        if grammar is not None and grammar.error is not None and reason is None:
            reason, error = "error", grammar.error
        elif verdict.broken_row is not None and reason is None:
            position = first_position + verdict.broken_row
            reason, error = "error", broken_logits(position)
            # no page from here on is shared or indexed: those hold sound rows only
            self.cache.erase(self._scheduler.pages_from(sequence, position))
        sequence.emit(emitted, verdict.logit_gaps, verdict.logprobs)
        self.stats.emitted_tokens += len(emitted)
        if not work.num_prefill:
            self._count_block(work, verdict.num_accepted, len(emitted))
        if sequence.on_tokens is not None and emitted:
            sequence.on_tokens(emitted)
        if reason is None:
            return None
        self._scheduler.finish(sequence)
        return sequence.complete(reason, error)

    def _count_block(self, work: Work, num_accepted: int, num_emitted: int) -> None:
        stats = work.sequence.stats
        stats.steps += 1
        stats.forwards += 2 if work.num_drafts else 1
        stats.drafted += work.num_drafts
        stats.accepted += min(num_accepted, num_emitted)
        stats.step_tokens += num_emitted
        if work.sequence.drafts:
            self.stats.sequence_steps += 1
            self.stats.step_tokens += num_emitted
        self.stats.count_block(work.num_drafts, num_accepted)

    def _count_step(self, works: list[Work], verdicts: list[Verdict]) -> None:
        accepted = [
            verdict.num_accepted for work, verdict in zip(works, verdicts, strict=True) if work.num_drafts
        ]
        self._draft_alarm.count(len(accepted), sum(accepted))
        num_drafts = sum(work.num_drafts for work in works)
        self.stats.steps += 1
        self.stats.verify_forwards += 1
        self.stats.draft_forwards += num_drafts > 0
        self.stats.token_rows += num_drafts + sum(work.num_verify_rows for work in works)
