"""A test double of the draft step, to time decoding at a set acceptance. For speed only: it knows the text.

Random weights draft badly, and a real head's acceptance is whatever it is. The double runs the real diffusion
forward and then puts other proposals in place of the head's: tokens of a continuation known beforehand, each
with a set probability, else a wrong token. So a step costs what a real one costs, and accepts what was asked.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import count_up
from orthrus_core.choosers.noise import gumbel_noise
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.step import Chooser, DiffusionDrafts
from orthrus_core.evaluation.curve import AcceptanceCurve

Continuations = Mapping[tuple[int, ...], Sequence[int]]


class Replay:
    """What would be proposed at every place of known completions.

    Attributes:
        proposals: (P, N, K) int64, for each prompt and each number of emitted tokens from 0 on the K tokens
            proposed after them.
    """

    def __init__(
        self,
        continuations: Continuations,
        curve: AcceptanceCurve,
        *,
        block_size: int,
        vocab_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        """Decide all proposals.

        Args:
            continuations: what AR decoding emits after each prompt.
            curve: probability that a draft equals the continuation, by its distance from the anchor; drafts
                past its end are wrong.
            block_size: K, the most drafts of a block.
            vocab_size: V; wrong tokens are the right ones plus 1, modulo V.
            seed: which drafts stand is a pure function of (seed, prompt's number, position, distance).
        """
        tokens = _windows(continuations, block_size)
        rates = (curve.conditional + (0.0,) * block_size)[:block_size]
        stands = _stands(rates, tokens.shape, seed=seed)
        self._line = {prompt: line for line, prompt in enumerate(continuations)}
        self.proposals = torch.where(stands, tokens, (tokens + 1) % vocab_size).to(device)

    def new_draft(self) -> "ReplayedDraft":
        """Return a draft step for one engine."""
        return ReplayedDraft(self)

    def line_of(self, prompt_ids: Sequence[int]) -> int:
        """Return the prompt's number. Raises KeyError for a prompt without a known continuation."""
        return self._line[tuple(prompt_ids)]


class ReplayedDraft:
    """The draft step of one engine, with replayed proposals."""

    def __init__(self, replay: Replay):
        self._replay = replay
        self._line_of_request: dict[int, int] = {}

    def propose(self, runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Tensor:
        """Run the diffusion view and return replayed proposals (D,), see `DraftSource`."""
        DiffusionDrafts().propose(runner, step, chooser)
        known = self._replay.proposals
        lines = np.array([self._line(work) if work.num_draft_rows else 0 for work in step.works])
        places = np.array([min(work.sequence.num_emitted, known.shape[1] - 1) for work in step.works])
        index = np.stack([np.repeat(one, step.num_draft_rows) for one in (lines, places)])
        line, place, offset = torch.from_numpy(np.vstack([index, count_up(step.num_draft_rows)])).to(
            known.device
        )
        return known[line, place, offset]

    def _line(self, work: Work) -> int:
        sequence = work.sequence
        line = self._line_of_request.get(sequence.request_id)
        if line is None:
            line = self._replay.line_of(sequence.token_ids[: sequence.num_prompt])
            self._line_of_request[sequence.request_id] = line
        return line


def _windows(continuations: Continuations, K: int) -> Tensor:
    """Return (P, N, K) int64: the K tokens after 0, 1, ... N-1 emitted ones, 0 past the end."""
    longest = max(map(len, continuations.values()))
    padded = torch.zeros(len(continuations), longest + K, dtype=torch.int64)
    for line, token_ids in zip(padded, continuations.values(), strict=True):
        line[: len(token_ids)] = torch.tensor(token_ids)
    return padded[:, :-1].unfold(1, K, 1)


def _stands(rates: Sequence[float], shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Return (P, N, K) bool: whether the draft at that place is right.

    Gumbel noise is below -ln(-ln p) with probability p.
    """
    P, N, K = shape
    place = torch.arange(P * N)
    noise = gumbel_noise(torch.full_like(place, seed), place // N, place % N, K)
    threshold = -torch.log(-torch.log(torch.tensor(rates, dtype=torch.float64)))
    return (noise.double() < threshold).view(P, N, K)
