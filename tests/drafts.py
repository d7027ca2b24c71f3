"""Sources of drafts for tests: the diffusion view runs, K/V included, and then other tokens are proposed."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

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
    truths: Mapping[Hashable, Sequence[int]],
    right_share: float,
    source: random.Random,
    key: Callable[[Work], Hashable] = lambda work: prompt_of(work),
) -> ChangedDrafts:
    """Drafts that are known completions' tokens, this share of them; `key` finds a work's own."""

    def change(work: Work, drafts: list[int]) -> list[int]:
        truth = truths[key(work)][work.sequence.num_emitted :][: len(drafts)]
        right = [
            token if source.random() < right_share else own for token, own in zip(truth, drafts, strict=False)
        ]
        return right + drafts[len(right) :]

    return ChangedDrafts(change)


def prompt_of(work: Work) -> tuple[int, ...]:
    """The prompt of a work's sequence."""
    return tuple(work.sequence.token_ids[: work.sequence.num_prompt])


def request_of(work: Work) -> Hashable:
    """What tells a work's request from others: prompt, params and sample."""
    return prompt_of(work), work.sequence.params, work.sequence.sample
