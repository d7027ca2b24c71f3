"""One step: draft, verify, accept.

The diffusion view proposes a block per sequence, the AR view runs over all blocks at once, and the longest
prefix on which both agree stands, with one more token of the AR view's own.
"""

from array import array
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import TokenRows, count_up
from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.readout import Hidden, Readout
from orthrus_core.transfer import to_device

NO_TOKEN = -1


class Choices(NamedTuple):
    """What the R rows of a forward that choose do choose, on the device.

    Attributes:
        ids: (R,) int64. NO_TOKEN behind a choice says that the block ends there, be it with the draft's id.
        logprobs: (R,) float32, their log-probabilities before temperature, filters and grammar; not finite
            where a row is broken.
    """

    ids: Tensor
    logprobs: Tensor


class Chooser(Protocol):
    """How the rows of one step choose tokens, and so which drafts stand. Made anew for every step."""

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """Return what the rows of a draft forward propose, (D,) int64.

        Args:
            step: what runs.
            readout: of the draft forward.
            positions: (R,) int64, of the rows read out; each proposes the token of the next position.
        """
        ...

    def propose_ahead(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """Return what the rows of blocks for the next step propose, as `propose`, but freely: what a grammar
        allows there is not known yet.
        """
        ...

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """Return what the rows of a verify forward choose: behind an accepted draft stands the next choice.

        Args:
            step: what runs.
            readout: of the verify forward.
            positions: (R,) int64, of the rows read out.
            draft_ids: (D,) int64, in the order of the draft forward's rows; None: there was none.
        """
        ...


class Greedy:
    """Every row takes its likeliest token."""

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        return readout.ids[: len(step.target_rows)]

    propose_ahead = propose

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """See `Chooser`."""
        return Choices(readout.ids, readout.logprobs)


class DraftSource(Protocol):
    """Makes the drafts that a step has not looked up. Whatever they are, they never change the text."""

    def propose(self, runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Tensor:
        """Return (D,) int64, the drafts of each work of the draft forward, one after the other."""
        ...


class DiffusionDrafts:
    """Drafts by the diffusion view: one forward over the blocks of all works that have one."""

    @torch.inference_mode()
    def propose(self, runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Tensor:
        """See `DraftSource`."""
        spans = step.draft_spans(runner.mask_token_id)
        rows = runner.lay_out(spans, "diffusion", token_budget=step.draft_budget)
        return chooser.propose(step, runner.run(rows, "diffusion"), rows.positions)


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


@torch.inference_mode()
def verify(
    runner: ModelRunner, step: StepLayout, chooser: Chooser, draft_ids: Tensor | None
) -> list[Verdict]:
    """Run the AR view and keep the drafts that stand.

    Args:
        runner: runs the model.
        step: what runs.
        chooser: of this step.
        draft_ids: (D,) int64; None without a draft forward.
    Returns:
        One verdict per work, brought to the host in one transfer; in another one the likeliest tokens.
    """
    rows = runner.lay_out(step.verify_spans, "ar", token_budget=step.verify_budget, choosing=step.choosing)
    if draft_ids is not None:
        rows.token_ids.index_copy_(0, to_device(step.target_rows, runner.device), draft_ids)
    hidden = runner.forward(rows, "ar")
    readout = runner.read(rows, hidden, "ar")
    choices = chooser.choose(step, readout, rows.chosen(rows.positions), draft_ids)
    verdicts, _ = verdicts_of(runner, step, rows, hidden, readout, choices)
    return verdicts


def verdicts_of(
    runner: ModelRunner,
    step: StepLayout,
    rows: TokenRows,
    hidden: Hidden,
    readout: Readout,
    choices: Choices,
    proposed_ids: Tensor | None = None,
) -> tuple[list[Verdict], list[int]]:
    """Bring what a verify forward says to the host, in one transfer, and accept.

    Args:
        rows: of the verify forward.
        hidden: its T states.
        readout: of the R rows that choose.
        choices: theirs.
        proposed_ids: (P,) int64, to bring along.
    Returns:
        One verdict per work, and `proposed_ids`.
    """
    ids = torch.cat([rows.chosen(rows.token_ids), choices.ids]).int()
    numbers = [readout.gaps, choices.logprobs, *([] if rows.choosing is None else [hidden.sums])]
    more = [] if proposed_ids is None else [proposed_ids.int()]
    table = torch.cat([ids, torch.cat(numbers).view(torch.int32), *more]).cpu().numpy()
    R, end = len(readout.gaps), len(table) - sum(map(len, more))
    floats = table[2 * R : end].view(np.float32)
    verdicts = _verdicts(step, table[: 2 * R].reshape(2, R), floats[: 2 * R].reshape(2, R), floats[2 * R :])
    _add_top_logprobs(step, readout, verdicts)
    _add_prompt_logprobs(runner, step, rows, hidden, verdicts)
    return verdicts, table[end:].tolist()


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


def _verdicts(step: StepLayout, ids: np.ndarray, numbers: np.ndarray, sums: np.ndarray) -> list[Verdict]:
    """Accept, on the host.

    Args:
        ids: (2, R) int32, tokens of the rows that choose and their choices.
        numbers: (2, R) float32, logit gaps and log-probabilities.
        sums: (T,) float32 of the hidden states of all rows; empty where all of them choose.
    """
    accepted = longest_agreeing_prefix(ids[0], ids[1], step.choices, step.num_drafts)
    choices, (gaps, logprobs) = ids[1].tolist(), [array("f", line.tobytes()) for line in numbers]
    verdicts = []
    for work, first, num_accepted in zip(step.works, step.choices.tolist(), accepted.tolist(), strict=True):
        end = first + num_accepted + 1 if work.has_anchor else first
        verdicts.append(Verdict(choices[first:end], gaps[first:end], logprobs[first:end]))
    chooses, is_sound = np.isfinite(numbers[1]), np.isfinite(sums)
    if chooses.all() and is_sound.all():
        return verdicts
    return _mark_broken(step, verdicts, chooses.tolist(), is_sound.tolist())


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
