"""The engine of a model: its parts, chosen for the model and for the machine."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orthrus_core.cache import PagePool, PageTables
from orthrus_core.choosers.choose import chooser_by
from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import BlockPolicy, FixedBlocks, Lookup
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.engine import EngineCore
from orthrus_core.engine.leader import LeadingRunner
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.scheduler import Scheduler
from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.step import DraftSource
from orthrus_core.lookup.drafts import LookupDrafts
from orthrus_core.models.config import DualViewConfig
from orthrus_core.models.model import OrthrusLM
from orthrus_core.policy.adaptive import AdaptiveBlocks
from orthrus_core.readiness.admission import (
    RequestAdmission,
    check_arguments,
    check_context,
    check_model,
    drafted_block_size,
)
from orthrus_core.readiness.device_memory import device_memory
from orthrus_core.readiness.health import DraftAlarm, LogitHealth
from orthrus_core.readiness.memory import branches_of
from orthrus_core.readiness.sizes import fit, sizes_of
from orthrus_core.readiness.startup import Readiness, get_ready
from orthrus_core.request import SamplingParams
from orthrus_core.text.prompts import Prompt, new_requests, with_text

logger = logging.getLogger(__name__)

ALARM_STEPS = 200  # few, since adaptive blocks hardly ever try a head that drafts badly


class Engine(EngineCore):
    """Decodes many requests over one model and one paged cache.

    Every forward has one of a few budgets of rows that are known to agree bit for bit, so a token's logits
    depend on its own sequence alone: the text of a request is the same in both modes, alone or in traffic,
    whatever its neighbours do.

    Attributes:
        config: as given, with the sizes that were chosen.
        block_size: K of the diffusion view, 0 in AR mode and where there is no head.
        exactness: "exact" when permuted token rows agreed bit for bit at start-up, else "unverified".
        costs: the budgets that forwards may have, and the seconds that they take.
        cache: keys and values.
        stats: counters since the start.
    """

    def __init__(
        self,
        model: Any,
        config: EngineConfig | None = None,
        tokenizer: Any | None = None,
        *,
        draft: DraftSource | None = None,
        policy: BlockPolicy | None = None,
        ready: Readiness | None = None,
    ):
        """Allocate the cache and check exactness.

        Args:
            model: a model, or a runner of one over page tables as `config` wants them.
            config: None: the defaults.
            tokenizer: of transformers, for `generate` from and to text, stop strings and grammars; something
                that can only `decode` does for stop strings, and with a `backend_tokenizer` for grammars.
            draft: makes the drafts that are not looked up; None: the diffusion view.
            policy: shares the rows of a step; None: as `config` says.
            ready: budgets, their costs and exactness; None: found out here.
        Raises:
            ConfigError: the model has no second view, the config does not fit it, or they are other things.
        """
        config = EngineConfig() if config is None else config
        check_arguments(config, tokenizer)
        self._tokenizer = tokenizer
        self.config = config = _resolved(config, model)
        runner: ModelRunner = model if hasattr(model, "lay_out") else new_runner(model, config)
        self.block_size = drafted_block_size(config, runner.model)
        if not self.block_size and config.mode == "consensus":
            logger.info("the model has no diffusion head: drafts are looked up in text alone")
        ready = ready or get_ready(runner, config)
        if draft is not None:  # blocks for the next step would be the diffusion view's
            ready = replace(ready, costs=replace(ready.costs, both_s=None))
        self.exactness, self.costs, self._ready = ready.exactness, ready.costs, ready
        scheduler = Scheduler(
            config,
            runner.tables,
            block_size=self.block_size,
            costs=ready.costs,
            policy=policy or new_policy(config, ready.costs, block_size=self.block_size),
            lookup=new_lookup(config, runner.model.config),
        )
        self._draft_alarm = DraftAlarm(num_steps=ALARM_STEPS)
        super().__init__(
            runner,
            scheduler,
            RequestAdmission(runner.model, config, tokenizer),
            max_context=config.max_context,
            drafts=draft,
            chooser=chooser_by(config.consensus),
            observers=[LogitHealth(scheduler), self._draft_alarm],
        )

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
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

    def close(self) -> None:
        """Let the other ranks of a model go; an engine of one process needs no end."""
        self.runner.close()

    def report(self) -> dict:
        """Return what a manifest or a run report says about this engine."""
        runner, scheduler, pool = self.runner, self.scheduler, self.runner.tables.pool
        return self.stats.to_dict() | {
            "mode": self.config.mode,
            "exactness": self.exactness,
            "token_budget": self.costs.budgets[-1],
            "budgets": list(self.costs.budgets),
            "draft_s": list(self.costs.draft_s),
            "verify_s": list(self.costs.whole_verify_s),
            "both_s": self.costs.both_s,
            "draft_cells_s": list(self.costs.draft_cells),
            "verify_cells_s": list(self.costs.verify_cells),
            "compiled": runner.is_compiled,
            "block_size": self.block_size,
            "lookup_tokens": self.config.lookup_tokens,
            "attention": runner.backend.name,
            "linear": self._ready.linear,
            "digest": self._ready.digest,
            "page_size": pool.page_size,
            "max_sequences": self.config.max_sequences,
            "max_context": self.config.max_context,
            "num_pages": pool.num_pages,
            "cache_bytes_per_token": self.cache.bytes_per_token,
            "dtype": str(runner.model.dtype).removeprefix("torch."),
            "device": str(runner.device),
            "preemptions": scheduler.num_preemptions,
            "prefix_tokens": scheduler.num_prefix_tokens,
            "drafter_alarm": self._draft_alarm.is_on,
            "slots": {"total": self.config.max_sequences, "busy": len(scheduler.running)},
            "pages": {"total": pool.num_pages - 1, "free": pool.num_available},
            "waiting": len(scheduler.waiting),
        }


def _resolved(config: EngineConfig, model: Any) -> EngineConfig:
    """Return the config with the sizes it leaves open, from the model and the memory beside it.

    Raises:
        ConfigError: the model has no second view, the config does not fit it, or the cache not the device.
    """
    if hasattr(model, "lay_out"):
        return sizes_of(config, model.tables)
    check_model(model)
    check_context(config, model)
    if model.ranks is not None:
        logger.info("compile=off cuda_graphs=off because several ranks run the model together")
        config = config.model_copy(update={"compile": "off"})
    memory = device_memory(model.device)
    left = None if memory is None else memory.left(config.memory)
    config = fit(config, model, device_type=model.device.type, left=left)
    logger.info(
        "engine_sizes max_sequences=%d max_context=%d num_pages=%d free_bytes=%s",
        *(config.max_sequences, config.max_context, config.total_pages, memory and memory.free),
    )
    return config


def new_runner(model: OrthrusLM, config: EngineConfig) -> ModelRunner:
    """Return a model's runner over a cache of the config's size."""
    num_branches, cells_per_branch = branches_of(model, config, model.device.type)
    tables = PageTables(
        PagePool(config.total_pages, config.page_size),
        num_slots=config.max_sequences,
        pages_per_sequence=config.pages_per_sequence,
        num_branches=num_branches,
        cells_per_branch=cells_per_branch,
    )
    if model.ranks is not None:
        return LeadingRunner(model.eval(), tables, ranks=model.ranks, attention=config.attention)
    return ModelRunner(model.eval(), tables, attention=config.attention)


def new_policy(config: EngineConfig, costs: Costs, *, block_size: int) -> BlockPolicy:
    """Return the policy that the config names; `block_size` is K, 0 for plain AR decoding."""
    if config.block_policy == "fixed":
        return FixedBlocks(costs)
    return AdaptiveBlocks(costs, num_slots=config.max_sequences, block_size=block_size)


def new_lookup(config: EngineConfig, shape: DualViewConfig) -> Lookup | None:
    """Return what looks up drafts, None where nobody would take them; `shape` is the model's config."""
    most = config.most_looked_up(shape)
    if not most:
        return None
    return LookupDrafts(num_tokens=config.lookup_tokens, num_slots=config.max_sequences, most_drafts=most)
