"""How many sequences, how long ones, and how many pages: what a config leaves open, from model and memory."""

import bisect
import sys
from typing import Any

from orthrus_core.cache import PageTables
from orthrus_core.engine.config import EngineConfig
from orthrus_core.errors import ConfigError
from orthrus_core.readiness.memory import page_bytes, plan_memory, token_budget

# Sequences that still raise tokens per second: on CUDA rows are nearly free up to the budget, which drafts
# and prompts share; elsewhere every row costs time (docs/planning.md has figures of a CPU).
MOST_SEQUENCES = {"cuda": 256}
MOST_ELSEWHERE = 32
PAGES_SHARE = {"cpu": 0.5}  # of what is left: readers, writers and object store take theirs later
TYPICAL_TOKENS = 2048  # of prompt and completion, where nobody knows better


def fit(
    config: EngineConfig, model: Any, *, device_type: str, left: int | None, typical: int | None = None
) -> EngineConfig:
    """Return the config with every size resolved: max_context, max_sequences, num_pages.

    What the config says stays. Pages take what is left beside the buffers, but no more than sequences can
    need; elsewhere than on CUDA, where memory has other uses, no more than TYPICAL_TOKENS for each.
    Preemption covers what is longer.

    Args:
        model: with two views; on the meta device it will do.
        left: bytes for everything but the model; None: not known, there is room.
        typical: tokens of prompt and completion together; None: nobody knows.
    Raises:
        ConfigError: buffers and one sequence of max_context do not fit; with the numbers.
    """

    def cells(sized: EngineConfig) -> int:
        return _cells(sized, model, device_type, left)

    asked, sized = config, _with(config, max_sequences=config.max_sequences or 1)
    if not asked.max_context:
        sized = _with(sized, max_context=model.config.max_position_embeddings)
        sized = _with(sized, max_context=min(sized.max_context, max(cells(sized), sized.page_size)))
    if cells(sized) < max(2, sized.max_context):
        raise ConfigError(_too_large(sized, model, device_type, left or 0))
    typical = min(typical or TYPICAL_TOKENS, sized.max_context)
    if not asked.max_sequences:
        counts = range(1, _most_sequences(asked, device_type) + 1)
        needed = [max(count * typical, sized.max_context) for count in counts]
        count = bisect.bisect_left(
            counts, True, key=lambda S: cells(_with(sized, max_sequences=S)) < needed[S - 1]
        )
        sized = _with(sized, max_sequences=max(1, count))
    if asked.num_pages is None:
        each = sized.max_context if device_type == "cuda" else min(sized.max_context, TYPICAL_TOKENS)
        pages = max(sized.max_sequences * -(-each // sized.page_size), sized.pages_per_sequence)
        sized = _with(sized, num_pages=1 + min(pages, cells(sized) // sized.page_size))
    return EngineConfig.model_validate(sized.model_dump())


def sizes_of(config: EngineConfig, tables: PageTables) -> EngineConfig:
    """Return the config with the sizes of page tables that are there already."""
    slots, pages = len(tables.num_held), tables.pages.shape[1]
    return _with(
        config,
        max_sequences=config.max_sequences or slots,
        max_context=config.max_context or pages * tables.pool.page_size,
    )


def _with(config: EngineConfig, **sizes: int) -> EngineConfig:
    return config.model_copy(update=sizes)


def _most_sequences(config: EngineConfig, device_type: str) -> int:
    """The most that are worth while, and have a row each."""
    most = MOST_SEQUENCES.get(device_type, MOST_ELSEWHERE)
    return min([most, *(config.budgets or ())[-1:], *([config.token_budget] if config.token_budget else [])])


def _cells(config: EngineConfig, model: Any, device_type: str, left: int | None) -> int:
    """Cells of a cache with num_pages, else those that memory holds beside the buffers."""
    if config.num_pages is not None:
        return (config.num_pages - 1) * config.page_size
    if left is None:
        return sys.maxsize
    beside = left - plan_memory(model, config, device_type=device_type).buffers
    room = int(beside * PAGES_SHARE.get(device_type, 1.0))
    return max(0, room // page_bytes(model, config.page_size) - 1) * config.page_size


def _too_large(config: EngineConfig, model: Any, device_type: str, left: int) -> str:
    plan, cells = (
        plan_memory(model, config, device_type=device_type),
        _cells(config, model, device_type, left),
    )
    rows, each = token_budget(model.config, config, device_type), page_bytes(model, config.page_size)
    repair = f"set max_context to {cells} or less, or" if cells > 1 else "set"
    return (
        f"the model does not fit: beside {gb(plan.model)} of weights {gb(left)} are left of memory "
        f"({config.memory:g}) on {device_type}, it takes {gb(plan.buffers)} for forwards of {rows} rows and "
        f"{gb(config.pages_per_sequence * each)} for a sequence of max_context ({config.max_context}); "
        f"{repair} token_budget lower, or take a larger device"
    )


def gb(size: int) -> str:
    """Bytes as 1.2 GB."""
    return f"{size / 1e9:,.1f} GB" if abs(size) >= 1e8 else f"{size / 1e6:,.1f} MB"
