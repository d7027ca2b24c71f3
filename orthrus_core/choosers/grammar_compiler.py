"""Grammars by the llguidance library: from what a request asks for to masks over the vocabulary."""

import json
import logging
from collections import OrderedDict
from collections.abc import Collection
from types import ModuleType
from typing import Any

from orthrus_core.choosers.grammar_state import Grammar, GrammarState, reason_of
from orthrus_core.choosers.grammar_trial import GrammarTrial, GrammarTrialError
from orthrus_core.choosers.schema_review import OPTIONS, repeatable_keys, unknown_keywords
from orthrus_core.errors import RequestError
from orthrus_core.request import SamplingParams

logger = logging.getLogger(__name__)

CACHED_GRAMMARS = 256  # that are kept, or why they are refused; the least recently used goes first
SHOWN_CHARACTERS = 120  # of a schema in a message
# A mask is then all that the grammar admits, a function of the text so far. By default, where the next bytes
# are sure, the library admits only the token that its own tokenizer would take.
NO_FORCING = '%llguidance {"no_forcing": true}\n'
# Between the parts of JSON: nothing, a space, or a new line and its indentation. Without bounds a model
# that is unsure of the next key would write white space until its tokens run out.
JSON_WHITE_SPACE = r" |\r?\n[ \t]{0,40}"


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
        self._trial = GrammarTrial()
        self._grammars: OrderedDict[tuple[str, Any], Grammar | str] = OrderedDict()

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
        if asked not in self._grammars:
            try:
                self._grammars[asked] = self._new_grammar(library, *asked)
            except RequestError as error:
                self._grammars[asked] = str(error)
            if len(self._grammars) > CACHED_GRAMMARS:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(asked)
        found = self._grammars[asked]
        if isinstance(found, str):
            raise RequestError(found)
        return found

    def _new_grammar(self, library: ModuleType, option: str, value: Any) -> Grammar:
        try:
            text = _grammar_text(library, option, value)
            if option == "json_schema":  # the library bounds what the others take
                _review(value)
                self._trial.run(text)
            matcher = library.LLMatcher(self._ll_tokenizer, text, log_level=0)
        except GrammarTrialError as error:
            raise RequestError(f"{option} is refused: {_shortened(value)} {error}") from None
        except ValueError as error:
            raise RequestError(f"{option} is refused: {reason_of(str(error))}") from None
        if matcher.is_error():
            raise RequestError(f"{option} is refused: {reason_of(matcher.get_error())}")
        for warning in matcher.get_grammar_warnings():
            logger.warning("%s is obeyed in part: %s: %s", option, reason_of(warning), _shortened(value))
        return Grammar(
            matcher, option, vocab_size=self._vocab_size, end_id=self._end_id, never_ids=self._never_ids
        )

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
                f"{reason_of(str(error))}"
            ) from None

    def _check_stop_ids(self, option: str, stop_ids: Collection[int]) -> None:
        if not any(0 <= token_id < self._vocab_size for token_id in stop_ids):
            raise RequestError(
                f"{option} needs a token that ends the text, and the model names no EOS: set eos_token_id"
            )
        ordinary = sorted(set(stop_ids) - self._special_ids)
        if ordinary:
            raise RequestError(
                f"{option} goes with stop ids that are special tokens of the tokenizer, since the grammar "
                f"may need others in the text; got {ordinary}"
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
    """Return a grammar in the library's own language.

    Raises:
        ValueError: the library cannot make one.
    """
    if option == "json_schema":
        start = f"%json {_with_defaults(value)}"
    elif option == "regex":
        # only the library knows how its language quotes a regular expression
        [made] = json.loads(library.LLMatcher.grammar_from_regex(value))["grammars"]
        return NO_FORCING + made["lark_grammar"]
    else:
        # one lexeme: as rules, each choice is a way to parse, and the library follows 2,000 at once
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
        start = f"CHOICE\nCHOICE: {texts}"
    return f"{NO_FORCING}start: {start}"


def _with_defaults(schema_text: str) -> str:
    """Return the schema with our rules for what JSON may look like, where it has none of its own."""
    schema = json.loads(schema_text)
    asked = schema.get(OPTIONS, {})
    if isinstance(asked, dict):
        own = {} if "whitespace_flexible" in asked else {"whitespace_pattern": JSON_WHITE_SPACE}
        schema[OPTIONS] = {"json_allow_general_unicode_escapes": True} | own | asked
    return json.dumps(schema, ensure_ascii=False)


def _review(schema_text: str) -> None:
    """Warn of what has no effect in a schema.

    Raises:
        RequestError: it asks for what a grammar cannot keep, and the library does not say so.
    """
    schema = json.loads(schema_text)
    if unknown := unknown_keywords(schema):
        logger.warning("json_schema has unknown keywords, which have no effect: %s", ", ".join(unknown))
    if repeatable := repeatable_keys(schema):
        raise RequestError(
            f"json_schema is refused: {repeatable[0]} may be met by one key written twice: "
            "name the keys in properties and required, or leave it out"
        )


def _shortened(value: str) -> str:
    return value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}..."
