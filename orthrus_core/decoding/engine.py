"""The engine: requests in, completions out, in steps that many sequences share."""

import itertools
import time
from collections.abc import Sequence as SequenceOf

from orthrus_core.cache import KVCache, PagePool, PageTables
from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.draft import Draft, draft
from orthrus_core.decoding.runner import ModelRunner
from orthrus_core.decoding.sampling import Request, SamplingParams
from orthrus_core.decoding.scheduler import Scheduler, Work
from orthrus_core.decoding.selfcheck import Exactness, check_exactness
from orthrus_core.decoding.sequence import Completion, Sequence
from orthrus_core.decoding.stats import CompletionStats, EngineStats
from orthrus_core.decoding.stop import cut_at_stop
from orthrus_core.decoding.verify import Verdict, verify
from orthrus_core.errors import ConfigError
from orthrus_core.models.model import OrthrusLM

__all__ = [
    "Completion",
    "CompletionStats",
    "Engine",
    "EngineConfig",
    "Request",
    "SamplingParams",
]


class Engine:
    """Decodes many requests over one model and one paged cache.

    Every forward has exactly `token_budget` rows, so a token's logits depend on its own sequence alone: the
    text of a request is the same in both modes, alone or in traffic, whatever its neighbours do.

    Attributes:
        config: as given.
        exactness: "exact" when permuted token rows agreed bit for bit at start-up, else "unverified".
        stats: counters since the start.
    """

    def __init__(self, model: OrthrusLM, config: EngineConfig | None = None, *, draft: Draft = draft):
        """Allocate the cache and check exactness.

        Args:
            draft: the draft step; another one than the real one is for measurements.
        Raises:
            ConfigError: the config does not fit the model.
        """
        self.config = config or EngineConfig()
        self.block_size = self._check_block_size(model)
        self._check_context(model)
        self._model = model.eval()
        self._draft = draft
        pool = PagePool(self.config.total_pages, self.config.page_size)
        self._tables = tables = PageTables(
            pool, num_slots=self.config.max_sequences, pages_per_sequence=self.config.pages_per_sequence
        )
        self.cache = self._new_cache()
        self._runner = ModelRunner(model, self.cache, tables, token_budget=self.config.token_budget)
        self._scheduler = Scheduler(self.config, tables, block_size=self.block_size)
        self._default_stop_ids = _stop_ids_of(model)
        self._ids = itertools.count()
        self._rejected: list[Completion] = []
        self.stats = EngineStats()
        self.exactness: Exactness = "unverified"
        if self.config.self_check:
            self.exactness = check_exactness(self._runner, tables)

    def submit(self, request: Request) -> int:
        """Queue a request and return its id.

        A request that cannot run does not raise: it comes back from the next `step` with finish_reason
        "error".
        """
        request_id = next(self._ids)
        sequence = Sequence(
            request_id,
            list(request.prompt_ids),
            request.params,
            self._stop_ids(request.params),
            request.on_tokens,
            sample=request.sample,
        )
        error = self._reason_to_reject(sequence.token_ids)
        if error is None:
            self._scheduler.add(sequence)
        else:
            self._rejected.append(sequence.complete("error", error))
        return request_id

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to return."""
        return bool(self._rejected or self._scheduler.running or self._scheduler.waiting)

    def cancel(self, request_id: int) -> bool:
        """Drop a request that has not finished; whether there was one."""
        return self._scheduler.remove(request_id)

    def forget_prompts(self) -> None:
        """Share no page with prompts from before, so that repeated work costs the same again."""
        self._tables.pool.forget_prefixes()

    def step(self) -> list[Completion]:
        """Advance all running sequences by one step and return the requests that ended."""
        started_at = time.perf_counter()
        finished, self._rejected = self._rejected, []
        works = self._scheduler.plan()
        if works:
            draft_ids = None
            if any(work.num_drafts for work in works):
                draft_ids = self._draft(self._runner, works, self._model.config.mask_token_id)
            verdicts = verify(self._runner, works, draft_ids)
            self._count_step(works)
            finished += [
                completion
                for work, verdict in zip(works, verdicts, strict=True)
                if (completion := self._commit(work, verdict)) is not None
            ]
            self._scheduler.index_prompts(works)
        self.stats.busy_s += time.perf_counter() - started_at
        return finished

    def run(self, requests: SequenceOf[Request]) -> list[Completion]:
        """Submit requests and step until all of them ended; completions in the order given."""
        ids = [self.submit(request) for request in requests]
        done: dict[int, Completion] = {}
        while len(done) < len(ids):
            done.update((completion.request_id, completion) for completion in self.step())
        return [done[request_id] for request_id in ids]

    def generate(
        self,
        prompts: SequenceOf[SequenceOf[int]],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Complete prompts, given as token ids, in order.

        Args:
            prompts: one list of token ids each.
            params: one for all or one per prompt; None: the defaults.
        """
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise ConfigError(f"got {len(prompts)} prompts but {len(params)} sampling params")
        return self.run([Request(prompt, one) for prompt, one in zip(prompts, params, strict=True)])

    def report(self) -> dict:
        """Return what a manifest or a run report says about this engine."""
        stats = self.stats
        return {
            "mode": self.config.mode,
            "exactness": self.exactness,
            "token_budget": self.config.token_budget,
            "block_size": self.block_size,
            "query_widths": list(self._runner.shapes.query_widths),
            "tile_lengths": list(self._runner.shapes.tile_lengths),
            "page_size": self.config.page_size,
            "num_pages": self.config.total_pages,
            "cache_bytes_per_token": self.cache.bytes_per_token,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._model.device),
            "steps": stats.steps,
            "forwards": stats.verify_forwards + stats.draft_forwards,
            "draft_forwards": stats.draft_forwards,
            "emitted_tokens": stats.emitted_tokens,
            "token_rows": stats.token_rows,
            "acceptance_length": stats.step_tokens / stats.sequence_steps if stats.sequence_steps else None,
            "drafted_by_position": list(stats.drafted_by_position),
            "accepted_by_position": list(stats.accepted_by_position),
            "preemptions": self._scheduler.num_preemptions,
            "prefix_tokens": self._scheduler.num_prefix_tokens,
            "busy_s": stats.busy_s,
        }

    def _commit(self, work: Work, verdict: Verdict) -> Completion | None:
        """Append what the step emitted to its sequence; return the completion if it ended."""
        sequence, stats = work.sequence, work.sequence.stats
        sequence.num_committed += work.num_prefill
        if not work.has_anchor:
            return None
        emitted, reason = cut_at_stop(
            verdict.token_ids,
            stop_ids=sequence.stop_ids,
            length_left=sequence.params.max_new_tokens - sequence.num_emitted,
            context_left=self.config.max_context - len(sequence.token_ids),
        )
        sequence.token_ids += emitted
        sequence.num_committed += len(emitted)
        stats.logprob += sum(verdict.logprobs[: len(emitted)])
        gaps = verdict.logit_gaps[: len(emitted)]
        stats.min_logit_gap = min(gaps if stats.min_logit_gap is None else [stats.min_logit_gap, *gaps])
        self.stats.emitted_tokens += len(emitted)
        if not work.num_prefill:
            self._count_block(work, verdict.num_accepted, len(emitted))
        if sequence.on_tokens is not None:
            sequence.on_tokens(emitted)
        if reason is None:
            return None
        self._scheduler.finish(sequence)
        return sequence.complete(reason)

    def _count_block(self, work: Work, num_accepted: int, num_emitted: int) -> None:
        stats = work.sequence.stats
        stats.steps += 1
        stats.forwards += 2 if work.num_drafts else 1
        stats.drafted += work.num_drafts
        stats.accepted += min(num_accepted, num_emitted)
        stats.step_tokens += num_emitted
        self.stats.sequence_steps += 1
        self.stats.step_tokens += num_emitted
        self.stats.count_block(work.num_drafts, num_accepted)

    def _count_step(self, works: list[Work]) -> None:
        num_drafts = sum(work.num_drafts for work in works)
        self.stats.steps += 1
        self.stats.verify_forwards += 1
        self.stats.draft_forwards += num_drafts > 0
        self.stats.token_rows += num_drafts + sum(work.num_verify_rows for work in works)

    def _stop_ids(self, params: SamplingParams) -> frozenset[int]:
        if params.ignore_eos:
            return frozenset()
        eos = params.eos_token_id
        own = self._default_stop_ids if eos is None else frozenset([eos] if isinstance(eos, int) else eos)
        return own | frozenset(params.stop_token_ids)

    def _reason_to_reject(self, prompt_ids: list[int]) -> str | None:
        if not prompt_ids:
            return "prompt is empty: it needs at least one token"
        if len(prompt_ids) >= self.config.max_context:
            return f"prompt has {len(prompt_ids)} tokens, max_context is {self.config.max_context}"
        V = self._model.config.vocab_size
        for position, token_id in enumerate(prompt_ids):
            if not isinstance(token_id, int) or not 0 <= token_id < V:
                return f"prompt token {position} is {token_id!r}, the vocabulary has ids 0 to {V - 1}"
        return None

    def _check_block_size(self, model: OrthrusLM) -> int:
        """Return the K to draft with, 0 in AR mode."""
        if self.config.mode == "autoregressive":
            return 0
        own = model.config.block_size
        asked = own if self.config.block_size is None else self.config.block_size
        if asked > own:
            raise ConfigError(f"block_size must be <= {own}, the block size of the head, got {asked}")
        return asked

    def _check_context(self, model: OrthrusLM) -> None:
        limit = model.config.max_position_embeddings
        if self.config.max_context > limit:
            raise ConfigError(
                f"max_context must be <= {limit}, the positions of the model, got {self.config.max_context}"
            )

    def _new_cache(self) -> KVCache:
        config = self._model.config
        return KVCache(
            num_layers=config.num_hidden_layers,
            num_pages=self.config.total_pages,
            page_size=self.config.page_size,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            dtype=self._model.dtype,
            device=self._model.device,
        )


def _stop_ids_of(model: OrthrusLM) -> frozenset[int]:
    """Return the EOS ids of the generation config, else of the model config."""
    generation_config = getattr(model, "generation_config", None)
    eos = getattr(generation_config, "eos_token_id", None)
    if eos is None:
        eos = model.config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)
