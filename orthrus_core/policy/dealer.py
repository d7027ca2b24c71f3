"""Which budgets the forwards of a step run at, and how their token rows are shared."""

from dataclasses import dataclass

import numpy as np

from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Deal, Demand


@dataclass(frozen=True)
class Prospects:
    """What a step could use, and what each row of it may bring.

    Attributes:
        demand: of S decoding sequences and the waiting prompts.
        survival: (S, K) of each draft of each sequence, falling along K.
        worth: (S,) of a position of each; a row of a prompt is worth 1.
        is_lookup: (S,) bool, whose drafts need no draft forward; None: everybody's do.
    """

    demand: Demand
    survival: np.ndarray
    worth: np.ndarray
    is_lookup: np.ndarray | None = None


@dataclass(frozen=True)
class _Candidates:
    """The N drafts that a step may deal, best first.

    Attributes:
        sequences: (N,) int64, of which sequence each is.
        gains: (N,) worth that each commits on average.
        verify_cells: (N + 1,) cells that the rows of the first 0 to N drafts see in the verify forward.
        draft_rows: (N + 1,) int64, how many of them the draft forward makes.
        draft_cells: (N + 1,) cells that the rows of these see in it.
        block_cells: (N + 1,) cells that their sequences read.
        num_drafting: (N + 1,) int64, how many sequences these are.
    """

    sequences: np.ndarray
    gains: np.ndarray
    verify_cells: np.ndarray
    draft_rows: np.ndarray
    draft_cells: np.ndarray
    block_cells: np.ndarray
    num_drafting: np.ndarray


@dataclass(frozen=True)
class _PlainSteps:
    """Steps without drafts, (rungs,) each.

    Attributes:
        num_prefill: int64 rows for prompts.
        values: worth of the positions that a step commits.
        seconds: that it takes.
        rates: value per second; -1 on a rung that is too small.
    """

    num_prefill: np.ndarray
    values: np.ndarray
    seconds: np.ndarray
    rates: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PricedDeal(Deal):
    """A deal and what to expect of it.

    Attributes:
        value: worth of the positions that the step commits, on average.
        seconds: that it takes.
        plain_rate: value per second of the best step without drafts.
    """

    value: float
    seconds: float
    plain_rate: float


class Dealer:
    """Finds the deal that commits the most positions, each times its worth, per second.

    Each row of a prompt commits one position, as the anchor of a decoding sequence does; a draft commits its
    survival. The prompts and the text of a job are a fixed number of positions, so this rate is the one that
    ends the job soonest, and it gives a prompt's row no more and no less than its due.
    """

    def __init__(self, costs: Costs):
        self._costs = costs
        self._budgets = np.array(costs.budgets)
        self._verify_s = np.array(costs.verify_s)
        rows = np.arange(costs.budgets[-1] + 1)
        at_least = np.minimum.accumulate(costs.draft_s[::-1])[::-1]  # cheapest from this rung up
        self._draft_s = at_least[np.searchsorted(self._budgets, rows)]
        self._draft_s[0] = 0.0
        most = costs.choosing_budgets[-1]
        self._reading_s = np.array([costs.reading_s(count) for count in range(most + 1)])

    def deal(self, prospects: Prospects, *, must_draft: bool = False) -> PricedDeal:
        """Share the rows of a step.

        Every decoding sequence has the row of its anchor. Drafts are ranked by what they gain less what the
        time that their cells take would bring without drafts. What a number of the first ones costs is looked
        up, so every number is tried. Where all sequences read as many cells, no other deal is better.
        Waiting prompts get a row at least, lest a full rung keeps them out for ever.

        Args:
            prospects: of at least one sequence, S + 1 rows at most the largest budget where prompts wait.
            must_draft: leave out the deals without a draft, where another is possible.
        """
        demand, plain = prospects.demand, self._plain_steps(prospects)
        S, plain_rate = len(demand.caps), float(plain.rates.max())
        drafts = self._rank(prospects, plain_rate, self._most_drafts(demand))
        counts = np.arange(len(drafts.gains) + 1)
        value = plain.values[:, None] + np.concatenate([[0.0], np.cumsum(drafts.gains)])
        seconds = plain.seconds[:, None] + self._drafts_s(drafts, S)
        is_possible = counts <= (self._budgets - S - plain.num_prefill)[:, None]
        is_possible &= plain.rates[:, None] >= 0
        if must_draft and is_possible[:, 1:].any():
            is_possible[:, 0] = False
        rates = np.where(is_possible, value / seconds, -1.0)
        rung, count = np.unravel_index(int(rates.argmax()), rates.shape)
        return PricedDeal(
            np.bincount(drafts.sequences[:count], minlength=S),
            int(plain.num_prefill[rung]),
            value=float(value[rung, count]),
            seconds=float(seconds[rung, count]),
            plain_rate=plain_rate,
        )

    def plain(self, prospects: Prospects) -> PricedDeal:
        """Return the best deal without drafts; 15 us, where `deal` takes 70 (64 sequences: 140)."""
        steps = self._plain_steps(prospects)
        rung = int(steps.rates.argmax())
        return PricedDeal(
            np.zeros_like(prospects.demand.caps),
            int(steps.num_prefill[rung]),
            value=float(steps.values[rung]),
            seconds=float(steps.seconds[rung]),
            plain_rate=float(steps.rates[rung]),
        )

    def _plain_steps(self, prospects: Prospects) -> _PlainSteps:
        """Price a step without drafts on every rung."""
        demand = prospects.demand
        free = self._budgets - len(demand.caps)
        num_prefill = np.minimum(demand.num_waiting, free)
        values = prospects.worth.sum() + num_prefill
        seconds = self._plain_s(demand, num_prefill)
        rates = np.where(free >= min(demand.num_waiting, 1), values / seconds, -1.0)
        return _PlainSteps(num_prefill, values, seconds, rates)

    def _plain_s(self, demand: Demand, num_prefill: np.ndarray) -> np.ndarray:
        """Return (rungs,) seconds of a step without drafts, by verify rung."""
        costs = self._costs
        anchors_s = sum(costs.verify_cells) * demand.contexts.sum() + costs.sequence_s * len(demand.caps)
        prompts_s = costs.verify_cells.row_s * demand.waiting_context * num_prefill
        reading_s = self._reading_s[len(demand.caps)]
        return self._verify_s + reading_s + costs.step_s + anchors_s + prompts_s

    def _most_drafts(self, demand: Demand) -> int:
        """Return how many rows may choose beside the anchors, those of prompts that end among them."""
        return max(0, len(self._reading_s) - 1 - len(demand.caps) - demand.num_prompts)

    def _drafts_s(self, drafts: _Candidates, num_anchors: int) -> np.ndarray:
        """Return (N + 1,) seconds that the first 0 to N drafts add to a step."""
        costs, N = self._costs, len(drafts.draft_rows)
        reading_s = self._reading_s[num_anchors : num_anchors + N] - self._reading_s[num_anchors]
        rows_s = costs.verify_cells.row_s * drafts.verify_cells + costs.draft_cells.row_s * drafts.draft_cells
        blocks_s = costs.draft_cells.sequence_s * drafts.block_cells + costs.sequence_s * drafts.num_drafting
        return self._draft_s[drafts.draft_rows] + reading_s + rows_s + blocks_s

    def _rank(self, prospects: Prospects, plain_rate: float, most: int) -> _Candidates:
        """Return the drafts, best first.

        Args:
            plain_rate: worth per second of a step without drafts, which the time of a draft is held against.
            most: return no more than this.
        """
        caps, contexts = prospects.demand.caps, prospects.demand.contexts
        costs, gains_of = self._costs, prospects.survival * prospects.worth[:, None]
        positions, sequences = np.nonzero(np.arange(gains_of.shape[1])[:, None] < caps)
        is_block = np.ones(len(caps), dtype=bool) if prospects.is_lookup is None else ~prospects.is_lookup
        block_s = costs.draft_cells.row_s + costs.draft_cells.sequence_s / np.maximum(caps, 1)
        cells_s = contexts * (costs.verify_cells.row_s + is_block * block_s)
        net = gains_of[sequences, positions] - plain_rate * cells_s[sequences]
        if len(net) > most:
            top = np.argpartition(-net, most)[:most]
            positions, sequences, net = positions[top], sequences[top], net[top]
        order = np.lexsort((positions, -net))
        positions, sequences = positions[order], sequences[order]
        needs_forward = is_block[sequences]
        is_first, cells = needs_forward & (positions == 0), contexts[sequences]
        return _Candidates(
            sequences,
            gains_of[sequences, positions],
            _sums(cells),
            _sums(needs_forward),
            _sums(cells * needs_forward),
            _sums(cells * is_first),
            _sums(is_first),
        )


def _sums(values: np.ndarray) -> np.ndarray:
    """Return (N + 1,) sums of the first 0 to N of (N,) values."""
    return np.concatenate([[0], np.cumsum(values)])
