"""A sequence: one request in flight."""

import time
from array import array
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Any, Protocol

from orthrus_core.engine.stats import CompletionStats
from orthrus_core.engine.stop import FinishReason, StopStrings
from orthrus_core.request import SamplingParams

NO_SLOT = -1


@dataclass(frozen=True)
class Completion:
    """What became of a request.

    Attributes:
        request_id: as `Engine.submit` returned it.
        token_ids: emitted tokens; the EOS that ended them included.
        finish_reason: stop (an EOS, a stop id or a stop string), length (max_new_tokens), context
            (max_context) or error.
        error: what was wrong with the request; None if nothing was.
        stats: counters.
        stop_string: the one that ended it, which the last token completed; None if none did.
        logprobs: log-probability of each token under the AR view, before temperature and filters; None if
            the request did not ask for them.
        top_logprobs: ids and log-probabilities of the k likeliest tokens at the place of each token, the
            likeliest first; None if the request did not ask for them.
        prompt_logprobs: of each prompt token, None for the first; None if not asked for.
        text: without special tokens and the stop string, from `Engine.generate` of an engine with a
            tokenizer; None elsewhere and on error.
    """

    request_id: int
    token_ids: list[int]
    finish_reason: FinishReason
    error: str | None
    stats: CompletionStats
    stop_string: str | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    prompt_logprobs: list[float | None] | None = None
    text: str | None = None


class TokenFacts(Protocol):
    """What is known of tokens beside their ids, one entry for each; see `Completion`."""

    logit_gaps: array
    logprobs: array
    top_logprobs: SequenceOf[list[tuple[int, float]]]


class Constraint(Protocol):
    """What a completion may say, beside where it stops: where in its grammar it stands, for instance.

    Attributes:
        error: why no token can come next; None: some can.
    """

    error: str | None

    def advance(self, token_ids: SequenceOf[int]) -> int:
        """Follow tokens; return how many of them the completion may emit."""
        ...


@dataclass
class Sequence:
    """The state of a request that runs or waits.

    Attributes:
        token_ids: the prompt and then every emitted token; the last one is the anchor.
        sample: number of the completion for its prompt.
        num_prompt: how many of them are the prompt.
        most_tokens: that the request lets it have.
        num_committed: positions whose K/V in the cache is final, at most len(token_ids) - 1.
        slot: row in the page tables while running.
        stop_strings: looks for those of the request; None: it has none.
        constraint: that the request has put on the text; None: any text will do. The chooser that knows it
            reads more of it than the engine does.
        edits: what the request changes in the logits, for the chooser that knows it; None: nothing.
        drafts: whether steps may draft for it.
        followed, follows: see `Request`.
        draft_ids: what may follow `token_ids`, as the last step proposes.
        logprobs: of the emitted tokens, float32.
        logit_gaps: behind them, float32.
        top_logprobs: at their places, where the request asks for the likeliest tokens.
        prompt_logprobs: of the prompt's tokens but the first, float32, where the request asks for them.
    """

    request_id: int
    token_ids: list[int]
    params: SamplingParams
    stop_ids: frozenset[int]
    on_tokens: Callable[[list[int]], None] | None
    submitted_at: float = field(default_factory=time.perf_counter)
    started_at: float | None = None
    sample: int = 0
    num_prompt: int = 0
    most_tokens: int = 0
    num_committed: int = 0
    slot: int = NO_SLOT
    stop_strings: StopStrings | None = None
    constraint: Any = None  # a Constraint
    edits: Any = None
    drafts: bool = True
    followed: bool = False
    follows: bool = False
    draft_ids: SequenceOf[int] = ()
    logprobs: array = field(default_factory=lambda: array("f"))
    logit_gaps: array = field(default_factory=lambda: array("f"))
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_logprobs: array = field(default_factory=lambda: array("f"))
    stats: CompletionStats = field(default_factory=CompletionStats)

    def __post_init__(self) -> None:
        self.num_prompt = self.stats.prompt_tokens = len(self.token_ids)
        self.most_tokens = self.num_prompt + self.params.max_new_tokens

    @property
    def anchor_position(self) -> int:
        """Position of the last token, the only one that may be emitted without K/V."""
        return len(self.token_ids) - 1

    @property
    def is_prefilling(self) -> bool:
        """Whether positions before the anchor still lack K/V."""
        return self.num_committed < len(self.token_ids) - 1

    @property
    def num_emitted(self) -> int:
        """Completion tokens so far."""
        return len(self.token_ids) - self.num_prompt

    def emit(self, token_ids: list[int], facts: "TokenFacts") -> None:
        """Append tokens; facts of accepted tokens that stop rules cut may follow."""
        count = len(token_ids)
        self.token_ids += token_ids
        self.num_committed += count
        self.draft_ids = ()
        is_cut = count < len(facts.logprobs)
        self.logit_gaps.extend(facts.logit_gaps[:count] if is_cut else facts.logit_gaps)
        self.logprobs.extend(facts.logprobs[:count] if is_cut else facts.logprobs)
        self.top_logprobs += facts.top_logprobs[:count]

    def score(self, first_position: int, logprobs: SequenceOf[float]) -> None:
        """Append log-probabilities behind prefill rows; a preempted sequence has some already."""
        have = len(self.prompt_logprobs)
        self.prompt_logprobs.extend(logprobs[have - first_position : self.num_prompt - 1 - first_position])

    def complete(self, reason: FinishReason, error: str | None = None) -> Completion:
        """Close the counters and return the completion."""
        now = time.perf_counter()
        started_at = now if self.started_at is None else self.started_at
        self.stats.completion_tokens = self.num_emitted
        self.stats.logprob = sum(self.logprobs, start=0.0)
        self.stats.min_logit_gap = min(self.logit_gaps, default=None)
        self.stats.queued_s = started_at - self.submitted_at
        self.stats.running_s = now - started_at
        return Completion(
            self.request_id,
            self.token_ids[self.num_prompt :],
            reason,
            error,
            self.stats,
            stop_string=self.stop_strings.found if self.stop_strings else None,
            logprobs=self.logprobs.tolist() if self.params.logprobs else None,
            top_logprobs=self.top_logprobs if self.params.num_top_logprobs else None,
            prompt_logprobs=[None, *self.prompt_logprobs] if self.params.prompt_logprobs else None,
        )
