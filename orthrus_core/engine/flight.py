"""A step's verify forward on its way: launched, and landed once its outcome is on the host.

The AR view runs over all blocks at once. Between launch and landing the host is free; on CUDA the next
forward may be queued meanwhile.
"""

from array import array
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import TokenRows, count_up
from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.step import Choices, Chooser
from orthrus_core.engine.verdict import Verdict, accept
from orthrus_core.models.readout import Hidden, Readout
from orthrus_core.transfer import HostCopy, to_device


@dataclass(frozen=True)
class Flight:
    """A verify forward that was launched.

    Attributes:
        step: what runs.
        rows: of the verify forward.
        hidden: its T states.
        readout: of the R rows that choose.
        choices: theirs.
        num_proposed: rows of blocks for the next step, whose proposals come along.
        table: all that a verdict needs, int32 and float32, on its way to the host in one transfer.
        draft_s, launch_s: seconds of the host in drafting and in launching it.
    """

    step: StepLayout
    rows: TokenRows
    hidden: Hidden
    readout: Readout
    choices: Choices
    num_proposed: int
    table: HostCopy
    draft_s: float = 0.0
    launch_s: float = 0.0

    @classmethod
    def of(
        cls,
        step: StepLayout,
        rows: TokenRows,
        hidden: Hidden,
        readout: Readout,
        choices: Choices,
        proposed_ids: Tensor | None = None,
    ) -> "Flight":
        """Queue the transfer, of `proposed_ids` (P,) int64 too."""
        ids = torch.cat([rows.chosen(rows.token_ids), choices.ids]).int()
        numbers = [readout.gaps, choices.logprobs, *([] if rows.choosing is None else [hidden.sums])]
        more = [] if proposed_ids is None else [proposed_ids.int()]
        table = torch.cat([ids, torch.cat(numbers).view(torch.int32), *more])
        return cls(step, rows, hidden, readout, choices, sum(map(len, more)), HostCopy(table))

    @torch.inference_mode()
    def land(self, runner: ModelRunner) -> tuple[list[Verdict], list[int]]:
        """Wait for the outcome, and accept; the likeliest tokens take another transfer.

        Returns:
            One verdict per work, and the `proposed_ids`.
        """
        step, table = self.step, self.table.wait()
        R, end = len(self.readout.gaps), len(table) - self.num_proposed
        floats = table[2 * R : end].view(np.float32)
        verdicts = accept(step, table[: 2 * R].reshape(2, R), floats[: 2 * R].reshape(2, R), floats[2 * R :])
        _add_top_logprobs(step, self.readout, verdicts)
        _add_prompt_logprobs(runner, step, self.rows, self.hidden, verdicts)
        return verdicts, table[end:].tolist()


@torch.inference_mode()
def launch(
    runner: ModelRunner,
    step: StepLayout,
    chooser: Chooser,
    draft_ids: Tensor | None = None,
    *,
    behind: Flight | None = None,
) -> Flight:
    """Queue the AR view over a step's rows, and what they choose.

    Args:
        runner: runs the model.
        step: what runs.
        chooser: of this step.
        draft_ids: (D,) int64; None without a draft forward.
        behind: the step before, whose choices are tokens of this one; None: all are there already.
    """
    rows = runner.lay_out(step.verify_spans, "ar", token_budget=step.verify_budget, choosing=step.choosing)
    if behind is not None:
        own, places = to_device(_taken_over(step, behind.step), runner.device)
        ids = behind.choices.ids.index_select(0, places)
        last = runner.model.config.vocab_size - 1
        rows.token_ids.index_copy_(0, own, ids.clamp(0, last))  # a broken row chooses anything
    if draft_ids is not None:
        rows.token_ids.index_copy_(0, to_device(step.target_rows, runner.device), draft_ids)
    hidden = runner.forward(rows, "ar")
    readout = runner.read(rows, hidden, "ar")
    choices = chooser.choose(step, readout, rows.chosen(rows.positions), draft_ids)
    return Flight.of(step, rows, hidden, readout, choices)


def _taken_over(step: StepLayout, before: StepLayout) -> np.ndarray:
    """Return (2, N) int64: rows of a step, and places of the choices before it that become their tokens."""
    if step.works is before.works:
        return np.stack([step.anchor_rows, before.choices])
    places = {
        id(work.sequence): place
        for work, place in zip(before.works, before.choices.tolist(), strict=True)
        if work.has_anchor
    }
    pairs = [
        (row, places[id(work.sequence)])
        for work, row in zip(step.works, step.anchor_rows.tolist(), strict=True)
        if work.has_anchor and id(work.sequence) in places
    ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()


def _add_top_logprobs(step: StepLayout, readout: Readout, verdicts: SequenceOf[Verdict]) -> None:
    """Read the likeliest tokens at the places of a step's tokens, of the requests that ask for them."""
    if not any(work.has_anchor and work.sequence.params.num_top_logprobs for work in step.works):
        return
    asked = [rows for rows in step.verifying() if rows.sequence.params.num_top_logprobs]
    counts = np.array([len(verdicts[rows.line].token_ids) for rows in asked])
    places = np.repeat([rows.first for rows in asked], counts) + count_up(counts)
    most = max(rows.sequence.params.num_top_logprobs for rows in asked)
    top = readout.likeliest(to_device(places, readout.logits.device), most)
    ids, logprobs = (part.tolist() for part in top)
    for rows, end in zip(asked, np.cumsum(counts).tolist(), strict=True):
        verdict, k = verdicts[rows.line], rows.sequence.params.num_top_logprobs
        own = range(end - len(verdict.token_ids), end)
        verdict.top_logprobs = [list(zip(ids[row][:k], logprobs[row][:k], strict=True)) for row in own]


def _add_prompt_logprobs(
    runner: ModelRunner, step: StepLayout, rows: TokenRows, hidden: Hidden, verdicts: SequenceOf[Verdict]
) -> None:
    """Read the prefill rows of prompts that are scored, as many at once as the step's head takes."""
    starts = np.cumsum(step.verify_spans.counts) - step.verify_spans.counts
    scored = [
        (work, start, verdict)
        for work, start, verdict in zip(step.works, starts.tolist(), verdicts, strict=True)
        if work.num_prefill and work.sequence.params.prompt_logprobs
    ]
    if not scored:
        return
    counts = np.array([work.num_prefill for work, _, _ in scored])
    own = np.repeat([start for _, start, _ in scored], counts) + count_up(counts)
    next_ids = np.concatenate([work.next_ids for work, _, _ in scored])
    values = array("f")
    for start in range(0, len(own), step.choice_budget):
        chunk = np.zeros((2, step.choice_budget), dtype=np.int64)
        part = slice(start, start + step.choice_budget)
        num_rows = len(own[part])
        chunk[:, :num_rows] = own[part], next_ids[part]
        choosing, ids = to_device(chunk, runner.device)
        readout = runner.read(replace(rows, choosing=choosing), hidden, "ar")
        values.extend(readout.logprobs_of(ids)[:num_rows].tolist())
    for (work, _, verdict), end in zip(scored, np.cumsum(counts).tolist(), strict=True):
        verdict.prompt_logprobs = values[end - work.num_prefill : end]
