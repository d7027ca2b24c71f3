"""Structured output: a request's grammar, compiled, and where in it a completion stands."""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from orthrus_core.decoding.sampling import SamplingParams
from orthrus_core.errors import RequestError

CACHED_GRAMMARS = 256  # compiled ones that are kept, the least recently used goes first
WORD_BITS = 32
# Between the parts of JSON: nothing, a space, or a new line and its indentation. Without bounds a model that is
# unsure of the next key writes white space until its tokens run out.
JSON_WHITE_SPACE = r" |\r?\n[ \t]{0,40}"


def num_words(vocab_size: int) -> int:
    """Return the int32 words of a mask: a bit per token, token 0 in the lowest bit of the first word."""
    return -(-vocab_size // WORD_BITS)


def bits_of(token_ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """Return the mask (W,) int32 that allows these tokens; ids that the vocabulary lacks are left out."""
    bits = np.zeros(num_words(vocab_size) * WORD_BITS, dtype=np.uint8)
    bits[[token_id for token_id in token_ids if 0 <= token_id < vocab_size]] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def allows(mask: np.ndarray, token_id: int) -> bool:
    """Return whether a mask (W,) int32 allows a token of the vocabulary."""
    return bool(int(mask[token_id // WORD_BITS]) >> token_id % WORD_BITS & 1)


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
        reason = _first_line(self._matcher.get_error())
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


class GrammarCompiler:
    """Makes the grammars of one engine's requests, each of them once."""

    def __init__(self, tokenizer: Any, *, vocab_size: int, mask_token_id: int | None = None):
        """Args:
        tokenizer: a fast tokenizer, by its `backend_tokenizer`; None: every grammar is refused.
        vocab_size: V of the model, which may be larger than the tokenizer's.
        mask_token_id: of the model: no text holds it.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._never_ids = () if mask_token_id is None else (mask_token_id,)
        self._special_ids: frozenset[int] = frozenset()
        self._end_id = -1
        self._ll_tokenizer: Any = None
        self._grammars: OrderedDict[tuple[str, Any], Grammar] = OrderedDict()

    def new_state(self, params: SamplingParams, stop_ids: Collection[int]) -> GrammarState | None:
        """Return the beginning of the request's grammar; None if it has none.

        Args:
            stop_ids: tokens that end the completion.
        Raises:
            RequestError: the library refuses the grammar, or tokenizer or stop ids do not go with one.
        """
        asked = params.grammar
        if asked is None:
            return None
        option = asked[0]
        library = _library(option)
        if self._ll_tokenizer is None:
            self._ll_tokenizer = self._read_tokenizer(library, option)
        self._check_stop_ids(option, stop_ids)
        state = GrammarState(self._compile(library, asked), stop_ids)
        if state.error is not None:
            raise RequestError(state.error)
        return state

    def _compile(self, library: ModuleType, asked: tuple[str, Any]) -> Grammar:
        if asked in self._grammars:
            self._grammars.move_to_end(asked)
            return self._grammars[asked]
        option, value = asked
        try:
            text = _grammar_text(library, option, value)
            matcher = library.LLMatcher(self._ll_tokenizer, text, log_level=0)
        except ValueError as error:
            raise RequestError(f"{option} is refused: {_first_line(str(error))}") from None
        if matcher.is_error():
            raise RequestError(f"{option} is refused: {_one_line(matcher.get_error())}")
        grammar = Grammar(
            matcher, option, vocab_size=self._vocab_size, end_id=self._end_id, never_ids=self._never_ids
        )
        self._grammars[asked] = grammar
        if len(self._grammars) > CACHED_GRAMMARS:
            self._grammars.popitem(last=False)
        return grammar

    def _read_tokenizer(self, library: ModuleType, option: str) -> Any:
        """Return the library's own form of the tokenizer; takes about a second for 150,000 tokens."""
        if self._tokenizer is None:
            raise RequestError(
                f"{option} needs a tokenizer: pass Engine(model, config, tokenizer=...) a fast tokenizer"
            )
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise RequestError(
                f"{option} needs a fast tokenizer (one with a backend_tokenizer), "
                f"got {type(self._tokenizer).__name__}"
            )
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        if not self._special_ids:
            raise RequestError(f"{option} needs a tokenizer with special tokens: without, no text can end")
        self._end_id = min(self._special_ids)
        try:
            return library.LLTokenizer(backend.to_str(), n_vocab=self._vocab_size, eos_token=self._end_id)
        except ValueError as error:
            raise RequestError(
                f"{option} cannot be had with this tokenizer and a model of {self._vocab_size} tokens: "
                f"{_first_line(str(error))}"
            ) from None

    def _check_stop_ids(self, option: str, stop_ids: Collection[int]) -> None:
        if not any(0 <= token_id < self._vocab_size for token_id in stop_ids):
            raise RequestError(
                f"{option} needs a token that ends the text, and the model names no EOS: set eos_token_id"
            )
        ordinary = sorted(set(stop_ids) - self._special_ids)
        if ordinary:
            raise RequestError(
                f"{option} goes with stop ids that are special tokens of the tokenizer, since the grammar may "
                f"need others in the text; got {ordinary}"
            )


def _library(option: str) -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise RequestError(
            f"{option} needs the package llguidance, which is not installed: pip install 'llguidance>=1.3'"
        ) from None
    return llguidance


def _grammar_text(library: ModuleType, option: str, value: Any) -> str:
    """Return the library's own description of a grammar.

    Raises:
        ValueError: the library cannot make one.
    """
    if option == "json_schema":
        return library.LLMatcher.grammar_from_json_schema(
            value, defaults={"whitespace_pattern": JSON_WHITE_SPACE}
        )
    if option == "regex":
        return library.LLMatcher.grammar_from_regex(value)
    return library.grammar_from("choice", list(value))


def _first_line(text: str) -> str:
    return text.split("<state>")[0].strip().partition("\n")[0]


def _one_line(text: str) -> str:
    return " ".join(text.split("<state>")[0].split())[:300]
