"""Where in its grammar a completion stands, and so which tokens may come next."""

import itertools
import re
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from orthrus_core.choosers.masks import allows, bits_of, num_words

QUOTED = re.compile(r"\s*\d+ \|")
PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


class GrammarState:
    """Where in its grammar one completion stands.

    It follows the emitted tokens only; a walk looks ahead over drafts and comes back.

    Attributes:
        mask: (W,) int32, the tokens that may come next. During a walk: after its last step.
        error: why no token can come next; None: some can.
    """

    def __init__(self, grammar: "Grammar", stop_ids: Collection[int]):
        """Args: stop_ids are the tokens that end the completion, allowed where the grammar may end."""
        self._grammar = grammar
        self._stop_ids = stop_ids
        self._stop_bits = bits_of(stop_ids, grammar.vocab_size)
        self._keep_bits = ~bits_of([*stop_ids, *grammar.never_ids], grammar.vocab_size)
        self._matcher = grammar.new_matcher()
        self._emitted: list[int] = []
        self._ahead: deque[tuple[int, np.ndarray]] = deque()  # walked tokens and the masks behind them
        self.error: str | None = None
        self.mask = self._read_mask()

    def advance(self, token_ids: Sequence[int]) -> int:
        """Follow tokens that were chosen under the masks, up to a stop id or to where nothing can follow.

        Returns:
            How many of them the completion may emit.
        """
        for count, token_id in enumerate(token_ids, start=1):
            if token_id in self._stop_ids:
                return count
            if not self._matcher.consume_token(token_id):
                self.error = self._fault()
                return count - 1
            self._emitted.append(token_id)
            if self._ahead and self._ahead[0][0] == token_id:
                self.mask = self._ahead.popleft()[1]
            else:
                self._ahead.clear()
                self.mask = self._read_mask()
            if self.error is not None:
                return count
        self._ahead.clear()
        return len(token_ids)

    def begin_walk(self) -> None:
        """Look ahead from here on, until `end_walk`."""
        self._ahead.clear()

    def step(self, token_id: int) -> bool:
        """Walk over one draft; whether another one may follow it. `mask` is then that behind the draft."""
        if token_id in self._stop_ids or not allows(self.mask, token_id):
            return False
        self._ahead.append((token_id, self.mask))  # the mask before it, for the way back
        if not self._matcher.consume_token(token_id):
            return False
        mask = self._read_mask()
        if self.error is not None:
            return False
        self.mask = mask
        return True

    def end_walk(self) -> list[np.ndarray]:
        """Come back to the emitted tokens; return the masks before the walk and behind each of its steps."""
        masks = [mask for _, mask in self._ahead] + [self.mask]
        tokens = [token_id for token_id, _ in self._ahead]
        # a step that ran into an error consumed a token, or half of it, and left no mask
        failed = self.error is not None or self._matcher.is_error()
        if failed or (tokens and not self._matcher.rollback(len(tokens))):
            self._matcher = self._grammar.new_matcher()
            self._matcher.consume_tokens(self._emitted)
        if failed:
            masks.pop()
            tokens.pop()
        self.error = None
        self.mask = masks[0]
        self._ahead = deque(zip(tokens, masks[1:], strict=True))
        return masks

    def _read_mask(self) -> np.ndarray:
        """Return the mask of the matcher's state; sets `error` where nothing can follow."""
        mask = np.zeros(num_words(self._grammar.vocab_size), dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            self.error = self._fault()
            return mask
        may_end = allows(mask, self._grammar.end_id)
        mask &= self._keep_bits
        if may_end:
            mask |= self._stop_bits
        if not mask.any():
            self.error = self._fault()
        return mask

    def _fault(self) -> str:
        reason = reason_of(self._matcher.get_error())
        if not reason or reason.startswith("NoExtension"):
            reason = "no token of the vocabulary continues it"
        return f"{self._grammar.option}: the grammar is stuck after {len(self._emitted)} tokens: {reason}"


def walk_over(state: GrammarState, token_ids: Iterable[int]) -> list[np.ndarray]:
    """Return the masks before drafts and behind each of them, up to the first that nothing may follow."""
    state.begin_walk()
    for token_id in token_ids:
        if not state.step(token_id):
            break
    return state.end_walk()


class Grammar:
    """One compiled grammar.

    Attributes:
        option: of SamplingParams, that asked for it.
        vocab_size: V.
        end_id: the token by which the matcher says that the grammar may end.
        never_ids: tokens that no mask allows.
    """

    def __init__(self, matcher: Any, option: str, *, vocab_size: int, end_id: int, never_ids: Sequence[int]):
        """Args: matcher is an `LLMatcher` that consumed nothing."""
        self._matcher = matcher
        self.option = option
        self.vocab_size = vocab_size
        self.end_id = end_id
        self.never_ids = (*never_ids, end_id)

    def new_matcher(self) -> Any:
        """Return a matcher at the beginning of the grammar."""
        return self._matcher.deep_copy()


def reason_of(text: str) -> str:
    """Return what the library says in one line, without its state, its place and the lines it quotes."""
    lines = text.partition("<state>")[0].splitlines()
    told = " ".join(" ".join(itertools.takewhile(lambda line: not QUOTED.match(line), lines)).split())
    return PLACE.sub("", told)[:300]
