"""How often what followed a run of tokens before follows it again, learnt while decoding."""

import numpy as np

from orthrus_core.lookup.index import LENGTHS

SOURCES = ("own", "sample", "corpus")  # where the run was found
OWN, SAMPLE, CORPUS = range(len(SOURCES))
FIRST_GUESS = np.array([  # by source and length; measured: SmolLM2-135M answering GSM8K questions
    [0.35, 0.55, 0.60, 0.70, 0.80, 0.95],
    [0.30, 0.50, 0.55, 0.60, 0.75, 0.85],
    [0.30, 0.40, 0.45, 0.50, 0.70, 0.75],
])  # fmt: skip
GUESS_WEIGHT = 6.0  # of the first guess, in outcomes
MOST_WEIGHT = 400.0  # of what was seen: older outcomes are forgotten


class MatchRecord:
    """Estimates the survival of drafts by the source and the length of the run that they followed.

    A draft that stands makes the run a token longer, so the draft behind it is like the first one behind a
    run of that length: one number per source and length says it all. Whatever was proposed is learnt from as
    far as the text went on, whether it was verified or not: no trial is needed.
    """

    def __init__(self, most: int):
        """Args: most is L, drafts that a run may give."""
        C = FIRST_GUESS.size
        grown = LENGTHS[:, None] + np.arange(most)
        lines = np.searchsorted(LENGTHS, grown, side="right") - 1
        self._kinds = (lines[None] + len(LENGTHS) * np.arange(len(SOURCES))[:, None, None]).reshape(C, most)
        self._stood = GUESS_WEIGHT * FIRST_GUESS.ravel()
        self._seen = np.full(C, GUESS_WEIGHT)
        self._tabulate()

    def _tabulate(self) -> None:
        self.survival = np.cumprod((self._stood / self._seen)[self._kinds], axis=1)
        self.worth = self.survival.sum(axis=1)

    def learn(self, kinds: np.ndarray, drafts: np.ndarray, emitted: np.ndarray) -> None:
        """Compare proposals with how the texts went on.

        Args:
            kinds: (N,) int64, sources and lengths, see `kinds_of`.
            drafts: (N, L) int64, negative behind the last one.
            emitted: (N, L) int64, the tokens that came instead; negative behind the last one.
        """
        agrees = drafts == emitted
        is_seen = (drafts >= 0) & (emitted >= 0)
        is_seen[:, 1:] &= np.logical_and.accumulate(agrees, axis=1)[:, :-1]
        kinds = self._kinds[kinds][is_seen]
        self._seen += np.bincount(kinds, minlength=len(self._seen))
        self._stood += np.bincount(kinds[agrees[is_seen]], minlength=len(self._seen))
        keep = np.minimum(1.0, MOST_WEIGHT / self._seen)
        self._seen *= keep
        self._stood *= keep
        self._tabulate()


def kinds_of(sources: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers of sources and places of runs' lengths in LENGTHS, which go together."""
    return sources * len(LENGTHS) + lengths
