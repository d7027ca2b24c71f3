"""Steps of one forward: how many blocks for the next step, how long, and anchored where."""

from dataclasses import dataclass

import numpy as np

from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Blocks, Demand, share_evenly
from orthrus_core.policy.dealer import PricedDeal, Prospects
from orthrus_core.policy.record import TokenRecord

POINTS = np.array([1, 2, 4, 64])  # blocks of a sequence, at its likeliest ends of acceptance
PRICES = np.array([0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.11, 0.15, 0.2, 0.3, 0.45, 0.7])
LEAST_END = 0.01  # of a block worth its rows
LENGTHS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class _Stride:
    """What was decided for these steps and those to come.

    Attributes:
        habits: (slots,) int64, of the sequence in each; the commonest where there was none.
        price: of a row, in tokens.
        rung: place of the budget to fill with rows of prompts.
        rate: worth per second.
        tokens: worth that a sequence emits per step.
    """

    habits: np.ndarray
    price: float
    rung: int
    rate: float
    tokens: float


@dataclass(frozen=True)
class _Habits:
    """What S sequences bring and take per step, on average, if they keep to one of C habits.

    A habit is a number of blocks and their length; the first habit is no block and no draft.

    Attributes:
        tokens: (C, S) emitted.
        rows: (C, S) of both views.
        block_rows: (C, S) those of blocks among them.
        seconds: (C, S) that their cells take.
    """

    tokens: np.ndarray
    rows: np.ndarray
    block_rows: np.ndarray
    seconds: np.ndarray


class AheadDealer:
    """Deals steps that draft for the next one while they verify.

    If acceptance ends at a block, the next step has its drafts; else it has none, and one block, which is
    sure to be met. So from survival follows how often a sequence has drafts, and what it emits and takes per
    step in the long run. Rows have a price, in tokens: at each of a few every sequence takes the habit that
    leaves it the most. The price at which all of them together emit the most per second is the one.
    """

    def __init__(self, costs: Costs, *, num_slots: int, block_size: int):
        """Args: block_size is K, the rows of the longest block."""
        self._costs = costs
        self._num_slots = num_slots
        self._budgets = np.array(costs.budgets)
        self._forward_s = np.minimum.accumulate(np.array(costs.whole_verify_s)[::-1])[::-1]
        self._record = TokenRecord()
        self._stride: _Stride | None = None
        self._lengths = np.array([length for length in LENGTHS if length < block_size] + [block_size])

    def deal(self, prospects: Prospects, plain_rate: float) -> PricedDeal:
        """Share the rows of a step.

        Args:
            prospects: of at least one sequence; its demand knows what is at hand.
            plain_rate: worth per second of a step without drafts, which the time of cells is held against.
        Returns:
            A deal whose value per second is that of all the steps to come, if they are dealt likewise.
        """
        habits = self._habits(prospects)
        worth, demand = prospects.worth, prospects.demand
        S = len(worth)
        net = worth * habits.tokens - plain_rate * habits.seconds
        chosen = (net - PRICES[:, None, None] * habits.rows).argmax(axis=1)  # (prices, S)
        tokens, rows, block_rows, cells_s = (
            np.take_along_axis(part[None], chosen[:, None], axis=1)[:, 0].sum(axis=1)[:, None]
            for part in (worth * habits.tokens, habits.rows, habits.block_rows, habits.seconds)
        )
        own_rows = self._costs.block_rows(np.ceil(block_rows), self._budgets)
        free = self._budgets - own_rows - np.ceil(rows - block_rows)  # (prices, rungs)
        num_prefill = np.minimum(demand.num_waiting, free)
        seconds = self._forward_s + cells_s + self._step_s(S)
        value = tokens + num_prefill
        rates = np.where(free >= min(demand.num_waiting, 1), value / seconds, -1.0)
        price, rung = divmod(int(rates.argmax()), rates.shape[1])
        emitted = float(tokens[price, 0])
        rate = float(rates[price, rung])
        by_slot = np.full(self._num_slots, np.bincount(chosen[price]).argmax())
        by_slot[demand.slots] = chosen[price]
        self._stride = _Stride(by_slot, float(PRICES[price]), rung, rate, emitted / S)
        return self.go_on(prospects)

    def go_on(self, prospects: Prospects) -> PricedDeal:
        """Return the next step with habits and price of the last `deal`, be it of other sequences."""
        assert self._stride is not None
        return self._step(prospects, self._stride)

    def _most_rows(self, demand: Demand) -> int:
        """Return how many rows may choose beside those of prompts."""
        most = self._costs.choosing_budgets[-1] - demand.num_prompts
        return min(most, int(self._budgets[-1]) - min(demand.num_waiting, 1))

    def _step_s(self, num_sequences: int) -> float:
        costs = self._costs
        return costs.step_s + (costs.both_s or 0.0) + costs.sequence_s * num_sequences

    def _habits(self, prospects: Prospects) -> _Habits:
        """Work all habits out."""
        costs, demand, S = self._costs, prospects.demand, len(prospects.worth)
        most_drafts = self._lengths - 1
        ends = -np.sort(-ends_of(prospects.survival, most_drafts[:, None].repeat(S, axis=1)), axis=-1)
        num_points = np.minimum(POINTS, self._lengths[:, None])  # (lengths, points): a point per verified row
        met = np.cumsum(ends, axis=-1)[..., np.minimum(POINTS, ends.shape[-1]) - 1].transpose(0, 2, 1)
        has_drafts = 1 / (2 - np.minimum(met, 1.0))  # (lengths, points, S), share of the steps
        accepted = np.cumsum(prospects.survival, axis=1)[:, most_drafts - 1].T[:, None]
        num_blocks = has_drafts * num_points[..., None] + 1 - has_drafts
        verified = 1 + has_drafts * most_drafts[:, None, None]
        drafted = num_blocks * self._lengths[:, None, None]
        seconds = costs.verify_cells.sequence_s + costs.verify_cells.row_s * verified
        seconds = seconds + costs.draft_cells.sequence_s * num_blocks + costs.draft_cells.row_s * drafted
        plain_s = np.full((1, S), sum(costs.verify_cells))
        return _Habits(
            np.concatenate([np.ones((1, S)), (1 + has_drafts * accepted).reshape(-1, S)]),
            np.concatenate([np.ones((1, S)), (verified + drafted).reshape(-1, S)]),
            np.concatenate([np.zeros((1, S)), drafted.reshape(-1, S)]),
            np.concatenate([plain_s, seconds.reshape(-1, S)]) * demand.contexts,
        )

    def observe(self, num_sequences: int, num_accepted: int) -> None:
        """Learn what a step of the last deal emitted: a token of each sequence, and its accepted drafts."""
        assert self._stride is not None
        self._record.note(self._stride.tokens * num_sequences, num_sequences + num_accepted)

    def _step(self, prospects: Prospects, stride: _Stride) -> PricedDeal:
        """Return the step that the habits come to, with what is at hand."""
        demand, survival = prospects.demand, prospects.survival
        assert demand.at_hand is not None
        S, most = len(demand.slots), self._most_rows(demand)
        worth = prospects.worth[:, None]
        is_wanted = (worth * survival >= stride.price) & (
            np.arange(survival.shape[1]) < demand.at_hand[:, None]
        )
        num_drafts = is_wanted.sum(axis=1)
        if S + num_drafts.sum() > most:
            num_drafts = share_evenly(num_drafts, most - S)
        num_rows = S + int(num_drafts.sum())
        others = num_rows + min(demand.num_waiting, 1)
        room = min(most - num_rows, self._costs.most_block_rows(others))
        blocks = self._blocks(prospects, stride.habits[demand.slots], num_drafts, room)
        num_block_rows = int(blocks.counts.sum())
        most_prefill = min(demand.num_waiting, int(self._budgets[-1]) - num_rows - num_block_rows)
        budget = self._budgets[stride.rung]
        free = int(budget - num_rows - self._costs.block_rows(np.array(num_block_rows), budget))
        num_prefill = min(max(free, 1), most_prefill)
        place = int(
            np.searchsorted(
                self._budgets, sum(self._costs.both_budgets(num_rows + num_prefill, num_block_rows))
            )
        )
        cells_s = self._cells_s(demand.contexts, num_drafts, blocks)
        seconds = float(self._forward_s[place]) + self._step_s(S) + cells_s
        return PricedDeal(
            num_drafts=num_drafts,
            num_prefill=num_prefill,
            blocks=blocks,
            value=self._record.ratio * stride.rate * seconds,
            seconds=seconds,
            plain_rate=0.0,
        )

    def _blocks(self, prospects: Prospects, habits: np.ndarray, num_drafts: np.ndarray, room: int) -> Blocks:
        """Return the blocks of a step, the likeliest first to go into no more rows than there is room for."""
        demand = prospects.demand
        lengths, points = self._lengths[(habits - 1) // len(POINTS)], POINTS[(habits - 1) % len(POINTS)]
        ends = ends_of(prospects.survival, num_drafts[None])[0]
        counts = np.minimum(lengths[:, None], demand.left[:, None] - 1 - np.arange(ends.shape[1]))
        is_block = (ends > LEAST_END) & (habits > 0)[:, None] & (counts > 1)
        is_block &= ends >= np.take_along_axis(
            -np.sort(-ends, axis=1), np.minimum(points, ends.shape[1])[:, None] - 1, axis=1
        )
        lines, at = np.nonzero(is_block)
        best = np.argsort(-ends[lines, at], kind="stable")[: demand.most_blocks]
        best = np.sort(best[np.cumsum(counts[lines, at][best]) <= room])
        return Blocks(lines[best], at[best], counts[lines, at][best])

    def _cells_s(self, contexts: np.ndarray, num_drafts: np.ndarray, blocks: Blocks) -> float:
        verify, draft = self._costs.verify_cells, self._costs.draft_cells
        of_rows = contexts * (verify.sequence_s + verify.row_s * (1 + num_drafts))
        of_blocks = contexts[blocks.lines] * (draft.sequence_s + draft.row_s * blocks.counts)
        return float(of_rows.sum() + of_blocks.sum())


def ends_of(survival: np.ndarray, num_drafts: np.ndarray) -> np.ndarray:
    """Return (N, S, K + 1), how likely acceptance ends after 0 to K drafts.

    Args:
        survival: (S, K).
        num_drafts: (N, S) int64, that are verified.
    """
    S, K = survival.shape
    reach = np.concatenate([np.ones((S, 1)), survival, np.zeros((S, 1))], axis=1)
    places = np.arange(K + 1)
    return reach[:, :-1] * (places <= num_drafts[..., None]) - reach[:, 1:] * (places < num_drafts[..., None])
