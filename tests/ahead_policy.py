"""A block policy that draws steps of every kind at random, for tests that no step may change a text."""

import random

import numpy as np

from orthrus_core.engine.blocks import Blocks, Deal, Demand


class RandomAhead:
    """Deals drafts at hand and blocks for the next step, or drafts by a forward; see `BlockPolicy`.

    Attributes:
        num_ahead: steps with blocks for the next one.
    """

    def __init__(self, source: random.Random, *, token_budget: int, block_size: int):
        self._source = source
        self._token_budget = token_budget
        self._block_size = block_size
        self.num_ahead = 0

    def deal(self, demand: Demand) -> Deal:
        source, S = self._source, len(demand.slots)
        reserve = min(demand.num_waiting, 1)
        room = self._token_budget - S - reserve
        is_ahead = demand.at_hand is not None and S > 0 and source.random() < 0.85
        drafts, lines, points, counts = [], [], [], []
        for line in range(S):
            most = min(room, int(demand.at_hand[line] if is_ahead else demand.caps[line]))
            drafts.append(source.choice([0, most, source.randint(0, most)]))
            room -= drafts[-1]
        for line in range(S if is_ahead else 0):
            for point in source.sample(range(drafts[line] + 1), source.randint(0, drafts[line] + 1)):
                most = min(room, self._block_size, int(demand.left[line]) - 1 - point)
                if most < 2 or len(lines) == demand.most_blocks:
                    continue
                lines.append(line)
                points.append(point)
                counts.append(source.randint(2, most))
                room -= counts[-1]
        self.num_ahead += bool(lines)
        blocks = Blocks(*(np.array(part, dtype=np.int64) for part in (lines, points, counts)))
        num_prefill = min(demand.num_waiting, room + reserve)
        return Deal(np.array(drafts, dtype=np.int64), num_prefill, blocks=blocks if is_ahead else None)

    def rest(self, demand: Demand | None) -> Deal | None:
        return None

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        assert (num_accepted <= num_drafts).all()

    def time(self, seconds: float) -> None:
        pass

    def forget(self, slot: int) -> None:
        pass
