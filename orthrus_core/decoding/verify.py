"""The verify pass: the AR view over anchors, drafts and prefill chunks."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import count_up
from orthrus_core.decoding.accept import longest_agreeing_prefix
from orthrus_core.decoding.choice import RowSampling, choose, logprobs_of, sampling_of
from orthrus_core.decoding.grammar import walk_over
from orthrus_core.decoding.masks import RowMasks
from orthrus_core.decoding.rejection import Distributions, DraftOdds, NoiseKeys, emitted_ids, judge
from orthrus_core.decoding.rows import Span, first_rows
from orthrus_core.decoding.runner import ModelRunner
from orthrus_core.decoding.scheduler import Work


@dataclass(slots=True)
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
    runner: ModelRunner,
    works: list[Work],
    draft_ids: Tensor | None,
    odds: DraftOdds | None = None,
    *,
    token_budget: int,
) -> list[Verdict]:
    """Run the AR view and keep the drafts that stand.

    Args:
        runner: runs the model.
        works: the step's works, at most T verify rows.
        draft_ids: (S, K) int64 from `draft`; None when nothing was drafted.
        odds: of the works that the rejection rule judges; the others keep the longest agreeing prefix.
        token_budget: T.
    Returns:
        One verdict per work, brought to the host in one transfer.
    """
    spans = verify_spans(works)
    rows = runner.lay_out(spans, "ar", token_budget=token_budget)
    anchor_rows = _anchor_rows(spans, works)
    if draft_ids is not None:
        _place_drafts(rows.token_ids, draft_ids, anchor_rows, works)
    sampling = _sampling(works, anchor_rows, token_budget=token_budget, device=runner.device)
    readout = runner.run(rows, "ar")
    masks = _masks(works, anchor_rows, draft_ids, runner.device)
    choice_ids, logprobs, scores = choose(readout, rows.positions, sampling, masks)
    if odds is not None and draft_ids is not None:
        assert scores is not None, "odds without a sampling row"
        p = Distributions.of(scores, _first_scores(works, odds.lines), draft_ids.shape[1] + 1)
        choice_ids = _reject(works, anchor_rows, draft_ids, odds, p, choice_ids)
        logprobs = logprobs_of(readout, choice_ids)
    # float64 carries every id exactly, so that ids and numbers come over together
    table = torch.stack(
        [rows.token_ids.double(), choice_ids.double(), readout.gaps.double(), logprobs.double()]
    )
    return _verdicts(works, anchor_rows, table.cpu().numpy())


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


def _place_drafts(token_ids: Tensor, draft_ids: Tensor, anchor_rows: list[int], works: list[Work]) -> None:
    """Write each block's drafts into the token rows (T,) behind its anchor, on the device."""
    counts = np.array([work.num_drafts for work in works])
    offsets = count_up(counts)
    targets = np.repeat(anchor_rows, counts) + 1 + offsets
    sources = np.repeat(np.arange(len(works)) * draft_ids.shape[1], counts) + offsets
    where = torch.from_numpy(np.stack([targets, sources])).to(draft_ids.device)
    token_ids.index_copy_(0, where[0], draft_ids.flatten()[where[1]])


def _masks(
    works: list[Work], anchor_rows: list[int], draft_ids: Tensor | None, device: torch.device
) -> RowMasks | None:
    """Return the masks of the rows that a grammar binds; None, without any cost, where none does."""
    bound = [
        (line, work, work.sequence.grammar)
        for line, work in enumerate(works)
        if work.sequence.grammar is not None and work.has_anchor
    ]
    if not bound:
        return None
    rows: list[int] = []
    masks: list[np.ndarray] = []
    for line, work, grammar in bound:
        if work.masks is None:  # drafted by something that knows no grammar, or not at all
            drafts = draft_ids[line, : work.num_drafts].tolist() if draft_ids is not None else []
            work.masks = walk_over(grammar, drafts)
        rows += range(anchor_rows[line], anchor_rows[line] + len(work.masks))
        masks += work.masks
    return RowMasks.of(rows, masks, device)


def _first_scores(works: list[Work], lines: list[int]) -> list[int]:
    """Return the place of each line's anchor among the sampling rows of the verify forward."""
    counts = [
        1 + work.num_drafts if work.has_anchor and work.sequence.params.temperature else 0 for work in works
    ]
    places = list(itertools.accumulate(counts, initial=0))
    return [places[line] for line in lines]


def _reject(
    works: list[Work],
    anchor_rows: list[int],
    draft_ids: Tensor,
    odds: DraftOdds,
    p: Distributions,
    choice_ids: Tensor,
) -> Tensor:
    """Return `choice_ids` (T,) as the rejection rule has them in the lines of `odds`.

    What stands there are the drafts that were accepted and then another token than the next draft.
    """
    device = choice_ids.device
    blocks = [works[line] for line in odds.lines]
    slots = torch.arange(draft_ids.shape[1] + 1)
    counts = torch.tensor([work.num_drafts for work in blocks])
    rows = torch.tensor([anchor_rows[line] for line in odds.lines])[:, None] + slots
    line, slot = torch.nonzero(slots <= counts[:, None], as_tuple=True)
    # rows past a block's last draft are another sequence's: read here for their shape, never written
    targets = rows[line, slot].to(device)
    own = choice_ids[rows.clamp(max=len(choice_ids) - 1).to(device)]
    lines, num_drafts = torch.tensor(odds.lines).to(device), counts.to(device)
    drafts = draft_ids[lines]
    keys = NoiseKeys.of([work.sequence for work in blocks], device)
    num_accepted, replacements = judge(drafts, num_drafts, p, odds.distributions, keys)
    ids = emitted_ids(own, drafts, num_drafts, num_accepted, replacements)
    return choice_ids.index_copy(0, targets, ids[line.to(device), slot.to(device)])


def _verdicts(works: list[Work], anchor_rows: list[int], table: np.ndarray) -> list[Verdict]:
    """Accept on the host.

    Args:
        table: (4, T) float64: token ids of the rows, choice ids, logit gaps, log-probabilities.
    """
    token_ids, choice_ids = table[:2].astype(np.int64)
    num_drafts = np.array([work.num_drafts for work in works])
    accepted = longest_agreeing_prefix(token_ids, choice_ids, np.array(anchor_rows), num_drafts).tolist()
    choices, gaps, logprobs = choice_ids.tolist(), table[2].tolist(), table[3].tolist()
    verdicts = []
    for work, first, num_accepted in zip(works, anchor_rows, accepted, strict=True):
        end = first + num_accepted + 1 if work.has_anchor else first
        verdicts.append(Verdict(choices[first:end], gaps[first:end], logprobs[first:end]))
    is_sound = np.isfinite(table[3])
    if is_sound.all():
        return verdicts
    return _mark_broken(works, verdicts, anchor_rows, is_sound.tolist())


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
