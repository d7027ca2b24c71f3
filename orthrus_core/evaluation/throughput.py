"""Tokens per second of AR decoding, of fixed block lengths and of adaptive ones, by formula.

A step with K drafts for each of S sequences runs S*K rows in the draft forward and S*(K+1) in the verify
forward and emits 1 + sum of survival per sequence; a step of AR decoding runs S rows once. Prefill, host work
and stopping in the middle of a block are left out: these are rates of the steady state.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orthrus_core.evaluation.cost import Hardware, ModelShape, fits, forward_s
from orthrus_core.evaluation.curve import AcceptanceCurve


@dataclass(frozen=True)
class Load:
    """Sequences that decode side by side.

    Attributes:
        curves: acceptance by kind of text; the sequences take them in turn.
        sequences: S.
        context: positions in the cache of each.
    """

    curves: tuple[AcceptanceCurve, ...]
    sequences: int
    context: int

    @property
    def groups(self) -> list[tuple[AcceptanceCurve, int]]:
        """Each curve that has sequences, and how many."""
        counts = Counter(self.curves[index % len(self.curves)] for index in range(self.sequences))
        return list(counts.items())


@dataclass(frozen=True)
class Throughput:
    """What a load gets.

    Attributes:
        sequences: S.
        context: positions in the cache of each.
        fits: whether weights and cache fit into the device's memory.
        ar: tokens/s of AR decoding, all sequences together.
        fixed: tokens/s by block length.
        adaptive: tokens/s with the best number of drafts, none included.
        drafts: that number per sequence, on average.
    """

    sequences: int
    context: int
    fits: bool
    ar: float
    fixed: dict[int, float]
    adaptive: float
    drafts: float

    @property
    def speedup(self) -> float:
        """Adaptive against AR decoding."""
        return self.adaptive / self.ar


def simulate(
    hardware: Hardware,
    shape: ModelShape,
    curves: Sequence[AcceptanceCurve],
    *,
    batch_sizes: Sequence[int],
    contexts: Sequence[int],
    block_sizes: Sequence[int],
) -> list[Throughput]:
    """Return the throughput at every batch size and context.

    Args:
        hardware: the device.
        shape: the model.
        curves: one per kind of text, at least one; the sequences take them in turn.
        batch_sizes: sequences side by side.
        contexts: positions in the cache of each sequence.
        block_sizes: fixed K to compare.
    """
    return [
        throughput(hardware, shape, Load(tuple(curves), sequences, context), block_sizes)
        for context in contexts
        for sequences in batch_sizes
    ]


def throughput(hardware: Hardware, shape: ModelShape, load: Load, block_sizes: Sequence[int]) -> Throughput:
    """Return the throughput of one load."""
    longest = max(len(curve.conditional) for curve in load.curves)
    adaptive, num_drafts = adaptive_rate(hardware, shape, load)
    return Throughput(
        sequences=load.sequences,
        context=load.context,
        fits=fits(hardware, shape, sequences=load.sequences, positions=load.context + longest),
        ar=fixed_rate(hardware, shape, load, 0),
        fixed={K: fixed_rate(hardware, shape, load, K) for K in block_sizes},
        adaptive=adaptive,
        drafts=num_drafts / load.sequences,
    )


def fixed_rate(hardware: Hardware, shape: ModelShape, load: Load, block_size: int) -> float:
    """Tokens/s when every sequence drafts `block_size` tokens in every step; 0 is AR decoding."""
    tokens = sum(count * curve.tokens_per_step(block_size) for curve, count in load.groups)
    drafting = load.sequences if block_size else 0
    return tokens / step_s(hardware, shape, load, num_drafts=load.sequences * block_size, drafting=drafting)


def adaptive_rate(hardware: Hardware, shape: ModelShape, load: Load) -> tuple[float, int]:
    """Best tokens/s over every number of drafts in a step, and that number for all sequences together.

    Drafts go one at a time to the sequence whose next one is most likely to be emitted. No other way to deal
    the same number emits more, and with a fixed K every sequence drafts, which costs the most K/V to read: so
    the result is at least that of AR decoding and of every fixed K.
    """
    tokens = float(load.sequences)
    best, best_drafts, drafting = fixed_rate(hardware, shape, load, 0), 0, 0
    for num_drafts, (survival, is_first) in enumerate(deal(load.groups), start=1):
        tokens += survival
        drafting += is_first
        rate = tokens / step_s(hardware, shape, load, num_drafts=num_drafts, drafting=drafting)
        if rate > best:
            best, best_drafts = rate, num_drafts
    return best, best_drafts


def deal(groups: Sequence[tuple[AcceptanceCurve, int]]) -> Iterator[tuple[float, bool]]:
    """Yield every draft that could be made, the likeliest to be emitted first.

    Returns:
        survival of each draft, and whether it is the first of its sequence.
    """
    ranked = [
        [(-survival, position == 0) for position, survival in enumerate(curve.survival) for _ in range(count)]
        for curve, count in groups
    ]
    return ((-negative, is_first) for negative, is_first in heapq.merge(*ranked, key=lambda draft: draft[0]))


def step_s(hardware: Hardware, shape: ModelShape, load: Load, *, num_drafts: int, drafting: int) -> float:
    """Seconds of a step: the verify forward and, with drafts, the draft forward.

    Args:
        num_drafts: of all sequences together.
        drafting: sequences that have one.
    """
    S, context = load.sequences, load.context
    verify_s = forward_s(hardware, shape, rows=S + num_drafts, sequences=S, context=context)
    if not num_drafts:
        return verify_s
    return verify_s + forward_s(hardware, shape, rows=num_drafts, sequences=drafting, context=context)
