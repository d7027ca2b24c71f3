"""What a position of each sequence is worth when no sequence is left to take a free slot."""

import numpy as np

from orthrus_core.costs import Costs

SPREAD = 8.0  # tokens within which lengths count as equal
TRUST = 0.9  # that the sequence that may emit the most ends last


class Tail:
    """Weighs sequences by how likely each is to end last.

    While others wait for a slot, all positions are worth the same. At the end of a job only two things save
    time: that the last sequence ends sooner, and that forwards get cheaper as sequences end. A sequence that
    others outlast anyhow gains nothing by drafting. Where limits end nobody, the one that may emit the most
    is still the one that lags. Brings up to 21 % at the end of a job.
    """

    def __init__(self, costs: Costs):
        self._costs = costs

    def worth(self, remaining: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """Return (S,) worth of a position, 1 on average.

        Args:
            remaining: (S,) tokens that each sequence may still emit.
            contexts: (S,) cells that each reads.
        """
        S = len(remaining)
        is_last = np.exp((remaining - remaining.max()) / SPREAD)
        is_last = TRUST * is_last / is_last.sum() + (1 - TRUST) / S
        rows_share = self._rows_share(contexts)
        return rows_share + (1 - rows_share) * S * is_last

    def _rows_share(self, contexts: np.ndarray) -> float:
        """Return the share of a plain step's time that is owed to the number of its rows and their cells."""
        costs, S = self._costs, len(contexts)
        row_s = costs.sequence_s + sum(costs.verify_cells) * float(contexts.mean())
        seconds = dict(zip(costs.budgets, costs.verify_s, strict=True))
        alone_s = costs.step_s + row_s + seconds[costs.verify_budget(1)] + costs.reading_s(1)
        all_s = costs.step_s + row_s * S + seconds[costs.verify_budget(S)] + costs.reading_s(S)
        return 1 - alone_s / all_s
