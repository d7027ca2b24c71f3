"""What is counted, per request and per run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from orthrus_core.engine.layout import StepLayout, Work


@dataclass
class CompletionStats:
    """Counters of one request.

    Attributes:
        prompt_tokens: length of the prompt.
        completion_tokens: emitted tokens, the final EOS included.
        steps: draft-and-verify (or plain AR) steps that carried this request; prefill is not one.
        forwards: draft and verify passes that carried this request, prefill not counted.
        drafted: proposals that were verified.
        accepted: those of them that were emitted.
        lookup_drafted, lookup_accepted: those of them that came from lookup.
        cached_tokens: of the prompt, whose keys and values were in the cache before the request came in.
        step_tokens: tokens emitted by steps. The last forward of a prefill emits one token outside any step.
        min_logit_gap: smallest difference of the two largest AR logits at an emitted token.
        logprob: sum of the log-probabilities of the emitted tokens under the AR view at temperature 1.
        queued_s: seconds between submit and the first token row.
        running_s: seconds between the first token row and the end.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    lookup_drafted: int = 0
    lookup_accepted: int = 0
    cached_tokens: int = 0
    step_tokens: int = 0
    min_logit_gap: float | None = None
    logprob: float = 0.0
    queued_s: float = 0.0
    running_s: float = 0.0

    def count_block(self, work: "Work", num_accepted: int, num_emitted: int) -> None:
        """Add a step that carried this request: its drafts, those that stand, and the tokens emitted."""
        self.steps += 1
        self.forwards += 2 if work.num_draft_rows else 1
        self.step_tokens += num_emitted
        if not work.num_drafts:
            return
        num_accepted = min(num_accepted, num_emitted)
        self.drafted += work.num_drafts
        self.accepted += num_accepted
        if work.is_lookup:
            self.lookup_drafted += work.num_drafts
            self.lookup_accepted += num_accepted

    @staticmethod
    def total(several: "Sequence[CompletionStats]") -> "CompletionStats":
        """Return the sums of counters; of logit gaps the smallest."""
        names = [one.name for one in fields(CompletionStats) if one.name != "min_logit_gap"]
        gaps = [one.min_logit_gap for one in several if one.min_logit_gap is not None]
        sums = {name: sum(getattr(one, name) for one in several) for name in names}
        return CompletionStats(**sums, min_logit_gap=min(gaps, default=None))

    @property
    def acceptance_length(self) -> float | None:
        """Tokens emitted per step (accepted drafts + 1); None when prefill emitted everything."""
        return self.step_tokens / self.steps if self.steps else None

    @property
    def tokens_per_forward(self) -> float | None:
        """Tokens emitted per draft or verify pass, the paper's TPF; None when prefill emitted everything."""
        return self.step_tokens / self.forwards if self.forwards else None


@dataclass
class EngineStats:
    """Counters of one engine since its start.

    Attributes:
        steps: calls of `step` that ran a forward.
        verify_forwards: passes of the AR view, prefill and verify rows mixed.
        draft_forwards: passes of the diffusion view.
        sequence_steps: sum over requests of their steps; those without drafts are left out.
        step_tokens: tokens emitted by those steps.
        emitted_tokens: all emitted tokens.
        token_rows: rows that carried a token of some sequence, of all forwards.
        lookup_drafted: verified proposals that were looked up.
        lookup_accepted: those of them that agreed.
        drafted_by_position: verified proposals by their distance from the anchor, 1 first.
        accepted_by_position: agreed proposals by that distance.
        busy_s: seconds inside `step`.
        draft_s, verify_s, prefill_s: seconds of it inside draft and verify calls; a verify call's are split
            between verify and prefill by token rows. What is left of busy_s plans and commits. Taken on the
            host: on CUDA a draft call returns while the device still works on it, so most of its time is in
            the verify call, which waits for both.
    """

    steps: int = 0
    verify_forwards: int = 0
    draft_forwards: int = 0
    sequence_steps: int = 0
    step_tokens: int = 0
    emitted_tokens: int = 0
    token_rows: int = 0
    lookup_drafted: int = 0
    lookup_accepted: int = 0
    drafted_by_position: list[int] = field(default_factory=list)
    accepted_by_position: list[int] = field(default_factory=list)
    busy_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    prefill_s: float = 0.0

    @property
    def acceptance_length(self) -> float | None:
        """Tokens emitted per step of a request that drafts; None before the first one."""
        return self.step_tokens / self.sequence_steps if self.sequence_steps else None

    def to_dict(self) -> dict[str, Any]:
        """What a report of a run says of these counters."""
        return {
            "steps": self.steps,
            "forwards": self.verify_forwards + self.draft_forwards,
            "draft_forwards": self.draft_forwards,
            "emitted_tokens": self.emitted_tokens,
            "token_rows": self.token_rows,
            "lookup_drafted": self.lookup_drafted,
            "lookup_accepted": self.lookup_accepted,
            "acceptance_length": self.acceptance_length,
            "drafted_by_position": list(self.drafted_by_position),
            "accepted_by_position": list(self.accepted_by_position),
            "busy_s": self.busy_s,
            "seconds": {"draft": self.draft_s, "verify": self.verify_s, "prefill": self.prefill_s},
        }

    def count_step(self, step: "StepLayout", draft_s: float, verify_s: float) -> None:
        """Add a step's forwards, and the seconds of its draft and verify calls."""
        num_draft_rows = len(step.target_rows) if step.blocks is None else int(step.blocks.counts.sum())
        self.steps += 1
        self.verify_forwards += 1
        self.draft_forwards += step.draft_budget > 0
        self.token_rows += num_draft_rows + step.num_verify_rows
        num_prefill = step.num_verify_rows - int(step.has_anchor.sum() + step.num_drafts.sum())
        prefill_s = verify_s * num_prefill / step.num_verify_rows
        self.draft_s += draft_s
        self.prefill_s += prefill_s
        self.verify_s += verify_s - prefill_s

    def count_tokens(self, num_emitted: int, *, is_block: bool) -> None:
        """Add the tokens that a sequence emitted in a step; of a block only if steps may draft for it."""
        self.emitted_tokens += num_emitted
        if is_block:
            self.sequence_steps += 1
            self.step_tokens += num_emitted

    def count_drafts(self, step: "StepLayout", num_accepted: np.ndarray) -> None:
        """Add the drafts of a step's sequences, and those that stand (S,), by position."""
        num_drafts = step.num_drafts
        self.lookup_drafted += int(num_drafts[step.is_lookup].sum())
        self.lookup_accepted += int(num_accepted[step.is_lookup].sum())
        positions = np.arange(max(num_drafts.max(initial=0), len(self.drafted_by_position)))[:, None]
        for counts, ends in (
            (self.drafted_by_position, num_drafts),
            (self.accepted_by_position, num_accepted),
        ):
            counts.extend([0] * (len(positions) - len(counts)))
            counts[:] = (np.array(counts, dtype=np.int64) + (positions < ends).sum(axis=1)).tolist()
