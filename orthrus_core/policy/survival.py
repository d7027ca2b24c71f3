"""How likely drafts are to be accepted, learnt while decoding."""

import numpy as np

LEVELS = np.linspace(-4.0, 6.0, 21)  # log-odds of acceptance that a sequence can have: 0.02 to 0.998
OPTIMISM = 2.0  # weight of the first guess in the distribution of levels, in sequences
POPULATION_MEMORY = 0.98  # weight kept per sequence that leaves: the last 50 or so make the distribution
EVIDENCE_MEMORY = 0.99  # weight kept per step, drafts or none; brings 21 % where text turns easy
LEAST_EVIDENCE = -8.0  # log-likelihood against the likeliest level; brings 19 % where text turns hard
OFFSET_PRECISION = 5.0  # of the first guess that a position is like any other, in units of information
MOST_INFORMATION = 2000.0  # about positions: past it the oldest observations are forgotten


class SurvivalEstimates:
    """Estimates the survival of every draft that the running sequences could make.

    A draft at position i of a sequence is accepted, when all before it were, with probability
    sigmoid(level + offset[i]). The level is the sequence's own; its distribution over LEVELS starts as that
    of all sequences seen so far and follows the sequence's outcomes by Bayes' rule, so that few steps tell
    easy text from hard text. The offsets belong to the run: a slot that the head is bad at has a low one.
    An outcome says nothing about positions behind the first rejection, and nothing is counted there.
    The start brings 4 % in streams of hard text, the offsets 9 % where acceptance falls along the block.
    """

    def __init__(self, num_slots: int, block_size: int):
        """Args: block_size is K, the positions to estimate."""
        G = len(LEVELS)
        self._evidence = np.zeros((num_slots, G))
        self._is_known = np.zeros(num_slots, dtype=bool)
        self._known = np.zeros(0, dtype=np.int64)
        guess = np.arange(1.0, G + 1)
        self._population = OPTIMISM * guess / guess.sum()
        self._prior = guess / guess.sum()
        self._offsets = np.zeros(block_size)
        self._information = np.zeros(block_size)
        self._tabulate()

    def forget(self, slot: int) -> None:
        """A sequence leaves its slot: what it showed goes into the distribution that new ones start from."""
        if self._is_known[slot]:
            self._population *= POPULATION_MEMORY
            self._population += self._posterior(np.array([slot]))[0]
        self._evidence[slot] = 0.0
        self._is_known[slot] = False

    def survival(self, slots: np.ndarray) -> np.ndarray:
        """Return the probability that each draft and all before it are accepted.

        Args:
            slots: (S,) int64.
        Returns:
            (S, K), falling along K.
        """
        return self._posterior(slots) @ self._reach[:, 1:]

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Learn from one step; called after every step, with the sequences that drafted in it, if any.

        Args:
            slots: (S,) int64.
            num_drafts: (S,) int64, at least 1.
            num_accepted: (S,) int64, at most `num_drafts`.
        """
        self._evidence *= EVIDENCE_MEMORY
        if not len(slots):
            return
        self._weigh_evidence(slots, num_drafts, num_accepted)
        self._is_known[slots] = True
        posterior = self._learn_population()
        is_seen = np.arange(len(self._offsets)) < np.minimum(num_accepted + 1, num_drafts)[:, None]
        self._learn_offsets(posterior[np.searchsorted(self._known, slots)], is_seen, num_accepted)
        self._tabulate()

    def _weigh_evidence(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Add to each sequence's evidence how likely each level makes its outcome."""
        evidence = self._evidence[slots] + self._log_reach.T[num_accepted]
        is_rejected = num_accepted < num_drafts
        evidence[is_rejected] += self._log_reject.T[num_accepted[is_rejected]]
        evidence -= evidence.max(axis=1, keepdims=True)
        self._evidence[slots] = np.maximum(evidence, LEAST_EVIDENCE)

    def _posterior(self, slots: np.ndarray) -> np.ndarray:
        """Return (S, levels): how likely each level is for each sequence."""
        evidence = self._evidence[slots]
        weights = self._prior * np.exp(evidence - evidence.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def _learn_population(self) -> np.ndarray:
        """Set the distribution of levels to that of the sequences that left and those that run.

        Returns:
            (known sequences, levels): how likely each level is for each of `self._known`.
        """
        self._known = np.flatnonzero(self._is_known)
        posterior = self._posterior(self._known)
        weights = self._population + posterior.sum(axis=0)
        self._prior = weights / weights.sum()
        return posterior

    def _learn_offsets(self, posterior: np.ndarray, is_seen: np.ndarray, num_accepted: np.ndarray) -> None:
        """Move each offset but the first a Newton step along the likelihood of the outcomes at its position.

        Args:
            posterior: (S, levels).
            is_seen: (S, K) bool, positions up to the first rejection.
            num_accepted: (S,) int64.
        """
        expected = posterior @ self._accept
        self._information += (expected * is_seen).sum(axis=0) - (posterior @ self._accept**2 * is_seen).sum(
            axis=0
        )
        np.minimum(self._information, MOST_INFORMATION, out=self._information)
        is_accepted = np.arange(len(self._offsets)) < num_accepted[:, None]
        surprise = ((is_accepted - expected) * is_seen).sum(axis=0)
        steps = surprise / (OFFSET_PRECISION + self._information)
        self._offsets[1:] += np.maximum(np.minimum(steps[1:], 1.0), -1.0)  # the level is the first one's

    def _tabulate(self) -> None:
        """Tabulate, for every level, what the outcomes of a block are worth."""
        odds = LEVELS[:, None] + self._offsets
        log_accept = -np.logaddexp(0.0, -odds)
        self._accept = np.exp(log_accept)
        self._log_reject = -np.logaddexp(0.0, odds)
        self._log_reach = np.zeros((len(LEVELS), len(self._offsets) + 1))
        np.cumsum(log_accept, axis=1, out=self._log_reach[:, 1:])
        self._reach = np.exp(self._log_reach)
