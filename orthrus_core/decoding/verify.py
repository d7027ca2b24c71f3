"""The verify pass: the AR view over anchors, drafts and prefill chunks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.attention.rows import TokenRows
from orthrus_core.decoding.accept import longest_agreeing_prefix
from orthrus_core.decoding.choice import RowSampling, choose, sampling_of
from orthrus_core.decoding.rows import Span, first_rows
from orthrus_core.decoding.runner import ModelRunner
from orthrus_core.decoding.scheduler import Work


@dataclass(frozen=True)
class Verdict:
    """What the AR view says about one work, on the host.

    Attributes:
        token_ids: accepted drafts plus one correction or bonus token; empty without an anchor row.
        logit_gaps: difference of the two largest logits behind each of them.
        logprobs: log-probability of each of them at temperature 1.
    """

    token_ids: list[int]
    logit_gaps: list[float]
    logprobs: list[float]

    @property
    def num_accepted(self) -> int:
        """Drafts that the AR view agrees with."""
        return len(self.token_ids) - 1


def verify_spans(works: list[Work]) -> list[Span]:
    """Return each work's prefill chunk, anchor and room for its drafts as one causal span."""
    spans = []
    for work in works:
        start = work.sequence.num_committed
        known = work.sequence.token_ids[start : start + work.num_prefill + work.has_anchor]
        spans.append(Span(work.sequence.slot, start, known + [0] * work.num_drafts))
    return spans


@torch.inference_mode()
def verify(
    runner: ModelRunner, works: list[Work], draft_ids: Tensor | None, *, token_budget: int
) -> list[Verdict]:
    """Run the AR view and keep the longest agreeing prefix of every block.

    Args:
        runner: runs the model.
        works: the step's works, at most T verify rows.
        draft_ids: (S, K) int64 from `draft`; None when nothing was drafted.
        token_budget: T.
    Returns:
        One verdict per work, brought to the host in one transfer.
    """
    spans = verify_spans(works)
    rows = runner.lay_out(spans, "ar", token_budget=token_budget)
    anchor_rows = torch.tensor(_anchor_rows(spans, works))
    num_drafts = torch.tensor([work.num_drafts for work in works])
    if draft_ids is not None:
        _place_drafts(rows, draft_ids, anchor_rows, num_drafts)
    sampling = _sampling(works, anchor_rows.tolist(), token_budget=token_budget, device=runner.device)
    choice_ids, gaps, logprobs = choose(runner.run(rows, "ar"), rows.positions, sampling)
    accepted = _accept(choice_ids, draft_ids, anchor_rows, num_drafts)
    return _to_host(works, anchor_rows, choice_ids, gaps, logprobs, accepted)


def _anchor_rows(spans: list[Span], works: list[Work]) -> list[int]:
    return [
        first + max(work.num_prefill + work.has_anchor - 1, 0)
        for first, work in zip(first_rows(spans), works, strict=True)
    ]


def _sampling(
    works: list[Work], anchor_rows: list[int], *, token_budget: int, device: torch.device
) -> RowSampling | None:
    """Return how anchors and drafts choose; prefill rows before an anchor choose nothing."""
    choosers = [
        (work.sequence, row, 1 + work.num_drafts)
        for work, row in zip(works, anchor_rows, strict=True)
        if work.has_anchor
    ]
    return sampling_of(choosers, token_budget=token_budget, device=device)


def _place_drafts(rows: TokenRows, draft_ids: Tensor, anchor_rows: Tensor, num_drafts: Tensor) -> None:
    """Write each block's drafts into the token rows behind its anchor, on the device."""
    line, offset = torch.nonzero(torch.arange(draft_ids.shape[1]) < num_drafts[:, None], as_tuple=True)
    device = draft_ids.device
    targets = (anchor_rows[line] + 1 + offset).to(device)
    rows.token_ids[targets] = draft_ids[line.to(device), offset.to(device)]


def _accept(choice_ids: Tensor, draft_ids: Tensor | None, anchor_rows: Tensor, num_drafts: Tensor) -> Tensor:
    """Return (S,) int64 `num_accepted`."""
    device = choice_ids.device
    if draft_ids is None:
        return torch.zeros(len(anchor_rows), dtype=torch.int64, device=device)
    offsets = torch.arange(draft_ids.shape[1] + 1)
    rows = (anchor_rows[:, None] + offsets).clamp_(max=len(choice_ids) - 1)
    return longest_agreeing_prefix(draft_ids, choice_ids[rows.to(device)], num_drafts.to(device))


def _to_host(
    works: list[Work],
    anchor_rows: Tensor,
    choice_ids: Tensor,
    gaps: Tensor,
    logprobs: Tensor,
    accepted: Tensor,
) -> list[Verdict]:
    padded = torch.zeros_like(choice_ids)
    padded[: len(accepted)] = accepted
    # float64 carries every id exactly, so that ids and numbers come over together
    table = torch.stack([choice_ids.double(), gaps.double(), logprobs.double(), padded.double()]).cpu()
    choices, counts = table[0].long().tolist(), table[3].long().tolist()
    gap_list, logprob_list = table[1].tolist(), table[2].tolist()
    verdicts = []
    for work, first, num_accepted in zip(works, anchor_rows.tolist(), counts, strict=False):
        end = first + num_accepted + 1 if work.has_anchor else first
        verdicts.append(Verdict(choices[first:end], gap_list[first:end], logprob_list[first:end]))
    return verdicts
