"""Sources of drafts for tests: the diffusion view runs, K/V included, and then other tokens are proposed."""

import random
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from orthrus_core import Completion, Request
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.step import Chooser, DiffusionDrafts


class ChangedDrafts:
    """Hands each work and its drafts to a function and proposes what that returns."""

    def __init__(self, change: Callable[[Work, list[int]], list[int]]):
        self._change = change

    def propose(self, runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Tensor:
        draft_ids = DiffusionDrafts().propose(runner, step, chooser)
        changed: list[int] = []
        for line, work in enumerate(step.works):
            if not work.num_draft_rows:
                continue
            changed += self._change(work, step.drafts_of(line, draft_ids))
        return torch.tensor(changed, device=draft_ids.device)


def mostly_right(
    requests: Sequence[Request],
    references: Sequence[Completion],
    right_share: float,
    source: random.Random,
) -> ChangedDrafts:
    """Drafts that are the tokens of the requests' known completions, this share of them."""
    truths = {
        (tuple(request.prompt_ids), request.params, request.sample): reference.token_ids
        for request, reference in zip(requests, references, strict=True)
    }

    def change(work: Work, drafts: list[int]) -> list[int]:
        truth = truths[_request_of(work)][work.sequence.num_emitted :][: len(drafts)]
        right = [
            token if source.random() < right_share else own for token, own in zip(truth, drafts, strict=False)
        ]
        return right + drafts[len(right) :]

    return ChangedDrafts(change)


def _request_of(work: Work) -> Hashable:
    """What tells a work's request from others: prompt, params and sample."""
    sequence = work.sequence
    return tuple(sequence.token_ids[: sequence.num_prompt]), sequence.params, sequence.sample
