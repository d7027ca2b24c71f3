"""What the AR view says about a step: the longest prefix on which both views agree, and one token more."""

from array import array
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.step import NO_TOKEN


@dataclass(slots=True)
class Verdict:
    """What the AR view says about one work, on the host.

    Attributes:
        token_ids: accepted drafts plus one correction or bonus token; empty without an anchor row.
        logit_gaps: float32, difference of the two largest logits behind each of them.
        logprobs: float32, log-probability of each of them at temperature 1.
        top_logprobs: ids and log-probabilities of the likeliest tokens at the place of each of them, where
            the request asks for some.
        prompt_logprobs: float32, of the tokens that follow the work's prefill rows, where the request asks
            for them.
        broken_row: the work's first row of NaN or infinite numbers, counted from its first prefill row; None:
            all are sound. The tokens are those before it.
    """

    token_ids: list[int]
    logit_gaps: array
    logprobs: array
    broken_row: int | None = None
    top_logprobs: SequenceOf[list[tuple[int, float]]] = ()
    prompt_logprobs: SequenceOf[float] = ()

    @property
    def num_accepted(self) -> int:
        """Drafts that stand."""
        return len(self.token_ids) - 1 if self.token_ids else 0

    def broken_at(self, row: int, num_prefill: int) -> "Verdict":
        """Return what stands before a broken row of the work."""
        count = max(0, row - num_prefill)
        return Verdict(self.token_ids[:count], self.logit_gaps[:count], self.logprobs[:count], row)


def longest_agreeing_prefix(
    token_ids: np.ndarray, choice_ids: np.ndarray, anchors: np.ndarray, num_drafts: np.ndarray
) -> np.ndarray:
    """Count the drafts that the AR view agrees with before the first mismatch.

    Args:
        token_ids: (R,) integers, tokens of the rows that choose: each block's anchor, then its drafts.
        choice_ids: (R,) integers, what follows each row, see `Choices`.
        anchors: (S,) int64, the place of each block's anchor.
        num_drafts: (S,) int64.
    Returns:
        (S,) int64 `num_accepted`, each in [0, num_drafts].
    """
    agrees = (choice_ids[:-1] == token_ids[1:]) & (choice_ids[1:] != NO_TOKEN)
    mismatches = np.append(np.flatnonzero(~agrees), len(choice_ids))
    return np.minimum(mismatches[np.searchsorted(mismatches, anchors)] - anchors, num_drafts)


def accept(step: StepLayout, ids: np.ndarray, numbers: np.ndarray, sums: np.ndarray) -> list[Verdict]:
    """Accept, on the host.

    Args:
        ids: (2, R) int32, tokens of the rows that choose and their choices.
        numbers: (2, R) float32, logit gaps and log-probabilities.
        sums: (T,) float32 of the hidden states of all rows; empty where all of them choose.
    """
    accepted = longest_agreeing_prefix(ids[0], ids[1], step.choices, step.num_drafts)
    choices, (gaps, logprobs) = ids[1].tolist(), [array("f", line.tobytes()) for line in numbers]
    ends = step.choices + (accepted + 1) * step.has_anchor
    verdicts = [
        Verdict(choices[first:end], gaps[first:end], logprobs[first:end])
        for first, end in zip(step.choices.tolist(), ends.tolist(), strict=True)
    ]
    chooses, is_sound = np.isfinite(numbers[1]), np.isfinite(sums)
    if chooses.all() and is_sound.all():
        return verdicts
    return _mark_broken(step, verdicts, chooses.tolist(), is_sound.tolist())


def _mark_broken(
    step: StepLayout, verdicts: SequenceOf[Verdict], chooses: list[bool], is_sound: list[bool]
) -> list[Verdict]:
    """End every verdict before its first broken row.

    Args:
        chooses: (R,) whether the logits of a row that chooses are finite.
        is_sound: (T,) whether a row's hidden state is, which tells of rows of prompts.
    """
    marked, first = [], 0
    for work, verdict, choice in zip(step.works, verdicts, step.choices.tolist(), strict=True):
        rows = is_sound[first : first + work.num_prefill] + chooses[choice : choice + len(verdict.token_ids)]
        marked.append(verdict if all(rows) else verdict.broken_at(rows.index(False), work.num_prefill))
        first += work.num_verify_rows
    return marked
