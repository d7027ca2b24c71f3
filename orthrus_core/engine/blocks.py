"""How many drafts and prompt rows a step gets: the seam for policies, and whole blocks for everybody."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from orthrus_core.costs import Costs
from orthrus_core.engine.sequence import Sequence


@dataclass(frozen=True)
class Offer:
    """Drafts that are there already and cost no draft forward, for S sequences.

    Attributes:
        token_ids: (S, L) int64.
        counts: (S,) int64, how many of them each sequence may take.
        survival: (S, L) probability that each draft and all before it are accepted; falls along L.
        seconds: that it took to find them.
    """

    token_ids: np.ndarray
    counts: np.ndarray
    survival: np.ndarray
    seconds: float = 0.0

    def cut_to(self, most: np.ndarray) -> "Offer":
        """Return it with at most so many (S,) drafts each."""
        return replace(self, counts=np.minimum(self.counts, most))


class Lookup(Protocol):
    """Finds drafts in text that is there already."""

    def offer(self, sequences: SequenceOf[Sequence]) -> Offer:
        """Return drafts for decoding sequences."""
        ...

    def leave(self, sequence: Sequence) -> None:
        """A sequence gives up its slot."""
        ...

    def forget_texts(self) -> None:
        """Offer nothing from texts of before."""
        ...


class Blocks(NamedTuple):
    """B blocks for the next step, which run beside the rows that this one verifies.

    Attributes:
        lines: (B,) int64, the decoding sequence of each, by its place in the demand.
        points: (B,) int64, drafts of this step before its anchor: it counts if so many are accepted.
        counts: (B,) int64, rows, at least 2: the first one's proposal is no draft.
    """

    lines: np.ndarray
    points: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Demand:
    """What a step could use.

    Attributes:
        slots: (S,) int64, where the decoding sequences are.
        caps: (S,) int64, most drafts of each that the diffusion view may make.
        contexts: (S,) int64, cells that each reads before its rows of this step.
        num_waiting: rows that prompts could use.
        waiting_context: cells before such a row, on average.
        num_prompts: prompts that these rows are of.
        remaining: (S,) int64 tokens that each may still emit, when no sequence waits for a slot; else None.
        look_up: finds drafts that cost no draft forward, and takes time; None: there is nothing to ask.
        at_hand: (S,) int64, drafts that the last step left, at most `caps`; None: no step may draft for the
            next one.
        left: (S,) int64, tokens that each may still emit; 0 where nobody may draft.
        most_blocks: that a step may have for the next one.
    """

    slots: np.ndarray
    caps: np.ndarray
    contexts: np.ndarray
    num_waiting: int = 0
    waiting_context: float = 0.0
    num_prompts: int = 0
    remaining: np.ndarray | None = None
    look_up: Callable[[], Offer] | None = None
    at_hand: np.ndarray | None = None
    left: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    most_blocks: int = 0


@dataclass(frozen=True)
class Deal:
    """How the rows of one step are shared.

    Attributes:
        num_drafts: (S,) int64, drafts of each decoding sequence.
        num_prefill: rows for prompts, the rows of their anchors among them.
        offer: where looked up drafts come from; None: there are none.
        is_lookup: (S,) bool, whose drafts are the offer's; None: nobody's.
        blocks: for the next step, in a step that drafts for it: its own drafts are those at hand. None: it
            does not.
    """

    num_drafts: np.ndarray
    num_prefill: int
    offer: Offer | None = None
    is_lookup: np.ndarray | None = None
    blocks: Blocks | None = None

    def looks_up(self, line: int) -> bool:
        """Whether a sequence's drafts are the offer's."""
        return self.is_lookup is not None and bool(self.is_lookup[line])

    def known_ids(self, line: int, sequence: Sequence, count: int) -> list[int] | None:
        """Return a sequence's first drafts if they are there already; None: the draft forward makes them."""
        if self.blocks is not None:
            return list(sequence.draft_ids[:count])
        if self.offer is not None and self.looks_up(line):
            return self.offer.token_ids[line, :count].tolist()
        return None

    def blocks_beside(self, num_drafts: SequenceOf[int]) -> Blocks | None:
        """Return the blocks, if there are any, of a step that verifies so many drafts of each sequence."""
        if self.blocks is None or not len(self.blocks.lines):
            return None
        lines, points, counts = self.blocks
        return Blocks(lines, np.minimum(points, np.array(num_drafts)[lines]), counts)


class BlockPolicy(Protocol):
    """Decides how many rows drafts and prompts get."""

    def deal(self, demand: Demand) -> Deal:
        """Share the rows of a step."""

    def rest(self, demand: Demand | None) -> Deal | None:
        """Deal a step without drafts, if that goes without thought; None: `deal` has to be asked.

        Args:
            demand: None: that of the last step, which was dealt so and had no rows for prompts.
        """

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Learn from a step; called after every step, with the sequences that drafted in it, if any.

        Args:
            slots: (S,) int64.
            num_drafts: (S,) int64, at least 1.
            num_accepted: (S,) int64, at most `num_drafts`.
        """

    def time(self, seconds: float) -> None:
        """Learn how long the step took."""

    def forget(self, slot: int) -> None:
        """The sequence of a slot leaves."""


class FixedBlocks:
    """Gives everybody a whole block, or an even share where the largest budget cannot hold that.

    Prompts get half of the largest budget at most while others draft, and the rows that a rung has to spare.
    Where nobody can have a block, what is looked up takes its place.
    """

    def __init__(self, costs: Costs):
        self._costs = costs

    def deal(self, demand: Demand) -> Deal:
        """As in `BlockPolicy`."""
        caps, num_waiting, offer = demand.caps, demand.num_waiting, None
        if not caps.any() and len(caps) and demand.look_up is not None:
            offer = demand.look_up()
            caps = offer.counts
        S, T = len(caps), self._costs.budgets[-1]
        most = max(1, min(T - S, T // 2)) if caps.any() else T - S
        most_drafts = max(0, self._costs.choosing_budgets[-1] - S - demand.num_prompts)
        num_drafts = share_evenly(caps, min(T - S - min(num_waiting, most), most_drafts))
        num_rows = S + int(num_drafts.sum())
        budget = self._costs.verify_budget(num_rows + min(num_waiting, most))
        num_prefill = min(num_waiting, budget - num_rows)
        return Deal(num_drafts, num_prefill, offer, None if offer is None else num_drafts > 0)

    def rest(self, demand: Demand | None) -> Deal | None:
        """Never: whoever has room for drafts gets some."""
        return None

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Nothing depends on the outcomes."""

    def time(self, seconds: float) -> None:
        """Nor on the clock."""

    def forget(self, slot: int) -> None:
        """Nothing is remembered."""


def share_evenly(caps: np.ndarray, num_rows: int) -> np.ndarray:
    """Return (S,) int64 rows for each sequence, at most `caps`, as even as they allow."""
    counts = np.zeros_like(caps)
    for num_served, index in enumerate(np.argsort(caps, kind="stable")):
        counts[index] = min(caps[index], num_rows // (len(caps) - num_served))
        num_rows -= counts[index]
    return counts
