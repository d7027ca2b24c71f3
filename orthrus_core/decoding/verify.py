"""The verify pass: the AR view over anchors, drafts and prefill chunks."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.attention.rows import TokenRows
from orthrus_core.decoding.accept import longest_agreeing_prefix
from orthrus_core.decoding.choice import (
    RowSampling,
    choose,
    choose_with_scores,
    logprobs_of,
    sampling_of,
)
from orthrus_core.decoding.rejection import Distributions, DraftOdds, NoiseKeys, emitted_ids, judge
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
        broken_row: the work's first row of NaN or infinite logits, counted from its first prefill row; None:
            all are sound. The tokens are those before it.
    """

    token_ids: list[int]
    logit_gaps: list[float]
    logprobs: list[float]
    broken_row: int | None = None

    @property
    def num_accepted(self) -> int:
        """Drafts that stand."""
        return max(0, len(self.token_ids) - 1)

    def broken_at(self, row: int, num_prefill: int) -> "Verdict":
        """Return what stands before a broken row of the work."""
        count = max(0, row - num_prefill)
        return Verdict(self.token_ids[:count], self.logit_gaps[:count], self.logprobs[:count], row)


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
    runner: ModelRunner, works: list[Work], draft_ids: Tensor | None, odds: DraftOdds | None = None
) -> list[Verdict]:
    """Run the AR view and keep the drafts that stand.

    Args:
        runner: runs the model.
        works: the step's works, at most T verify rows.
        draft_ids: (S, K) int64 from `draft`; None when nothing was drafted.
        odds: of the works that the rejection rule judges; the others keep the longest agreeing prefix.
    Returns:
        One verdict per work, brought to the host in one transfer.
    """
    spans = verify_spans(works)
    rows = runner.lay_out(spans, "ar")
    anchor_rows = torch.tensor(_anchor_rows(spans, works))
    num_drafts = torch.tensor([work.num_drafts for work in works])
    if draft_ids is not None:
        _place_drafts(rows, draft_ids, anchor_rows, num_drafts)
    sampling = _sampling(runner, works, anchor_rows.tolist())
    logits = runner.run(rows, "ar")
    if odds is None or draft_ids is None:
        choice_ids, gaps, logprobs = choose(logits, rows.positions, sampling)
        accepted = _accept(choice_ids, draft_ids, anchor_rows, num_drafts)
    else:
        logits = logits.float()
        choice_ids, gaps, scores = choose_with_scores(logits, rows.positions, sampling)
        accepted = _accept(choice_ids, draft_ids, anchor_rows, num_drafts)
        assert scores is not None, "odds without a sampling row"
        p = Distributions.of(scores, _first_scores(works, odds.lines), draft_ids.shape[1] + 1)
        choice_ids, accepted = _reject(works, anchor_rows, draft_ids, odds, p, choice_ids, accepted)
        logprobs = logprobs_of(logits, choice_ids)
    return _to_host(works, anchor_rows, choice_ids, gaps, logprobs, accepted)


def _anchor_rows(spans: list[Span], works: list[Work]) -> list[int]:
    return [
        first + max(work.num_prefill + work.has_anchor - 1, 0)
        for first, work in zip(first_rows(spans), works, strict=True)
    ]


def _sampling(runner: ModelRunner, works: list[Work], anchor_rows: list[int]) -> RowSampling | None:
    """Return how anchors and drafts choose; prefill rows before an anchor choose nothing."""
    choosers = [
        (work.sequence, row, 1 + work.num_drafts)
        for work, row in zip(works, anchor_rows, strict=True)
        if work.has_anchor
    ]
    return sampling_of(choosers, token_budget=runner.token_budget, device=runner.device)


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


def _first_scores(works: list[Work], lines: list[int]) -> list[int]:
    """Return the place of each line's anchor among the sampling rows of the verify forward."""
    counts = [
        1 + work.num_drafts if work.has_anchor and work.sequence.params.temperature else 0 for work in works
    ]
    places = list(itertools.accumulate(counts, initial=0))
    return [places[line] for line in lines]


def _reject(
    works: list[Work],
    anchor_rows: Tensor,
    draft_ids: Tensor,
    odds: DraftOdds,
    p: Distributions,
    choice_ids: Tensor,
    accepted: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return `choice_ids` (T,) and `accepted` (S,) as the rejection rule has them in the lines of `odds`."""
    device = choice_ids.device
    blocks = [works[line] for line in odds.lines]
    slots = torch.arange(draft_ids.shape[1] + 1)
    counts = torch.tensor([work.num_drafts for work in blocks])
    rows = anchor_rows[odds.lines][:, None] + slots
    line, slot = torch.nonzero(slots <= counts[:, None], as_tuple=True)
    # rows past a block's last draft are another sequence's: read here for their shape, never written
    targets = rows[line, slot].to(device)
    own = choice_ids[rows.clamp(max=len(choice_ids) - 1).to(device)]
    lines, num_drafts = torch.tensor(odds.lines).to(device), counts.to(device)
    drafts = draft_ids[lines]
    keys = NoiseKeys.of([work.sequence for work in blocks], device)
    num_accepted, replacements = judge(drafts, num_drafts, p, odds.distributions, keys)
    ids = emitted_ids(own, drafts, num_drafts, num_accepted, replacements)
    choice_ids = choice_ids.index_copy(0, targets, ids[line.to(device), slot.to(device)])
    return choice_ids, accepted.index_copy(0, lines, num_accepted)


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
    if bool(table[2].isfinite().all()):
        return verdicts
    return _mark_broken(works, verdicts, anchor_rows.tolist(), table[2].isfinite().tolist())


def _mark_broken(
    works: list[Work], verdicts: list[Verdict], anchor_rows: list[int], is_sound: list[bool]
) -> list[Verdict]:
    """End every verdict before its first row of NaN or infinite logits, prefill rows included."""
    marked = []
    for work, verdict, anchor_row in zip(works, verdicts, anchor_rows, strict=True):
        first = anchor_row - max(work.num_prefill + work.has_anchor - 1, 0)
        rows = is_sound[first : first + work.num_prefill + len(verdict.token_ids)]
        marked.append(verdict if all(rows) else verdict.broken_at(rows.index(False), work.num_prefill))
    return marked
