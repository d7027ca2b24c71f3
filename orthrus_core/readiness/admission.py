"""What may run: a config on a model, and a request on an engine."""

from orthrus_core.choosers.edit_state import EditCompiler
from orthrus_core.choosers.grammar_compiler import GrammarCompiler
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.sequence import Sequence
from orthrus_core.errors import ConfigError, RequestError
from orthrus_core.models.model import OrthrusLM
from orthrus_core.request import Request, SamplingParams
from orthrus_core.text.stop_strings import Decoder, StopStrings


def check_model(model: object) -> None:
    """Raise ConfigError if something else than a model with two views is given."""
    if not hasattr(model, "hidden_states"):
        raise ConfigError(
            f"Engine takes a model with two views, got {type(model).__name__}: load_model(path) loads one "
            "with a diffusion head, load_model(path, needs_head=False) a plain model too"
        )


def check_arguments(config: object, tokenizer: object) -> None:
    """Raise ConfigError if an engine is given something else than a config or a tokenizer."""
    if not isinstance(config, EngineConfig):
        raise ConfigError(
            f"Engine takes an EngineConfig after the model, got {type(config).__name__}: "
            "Engine(model, EngineConfig(max_context=4096), tokenizer)"
        )
    if tokenizer is not None and not hasattr(tokenizer, "decode"):
        raise ConfigError(
            f"Engine takes a tokenizer of transformers, got {type(tokenizer).__name__}: "
            "AutoTokenizer.from_pretrained(path) loads one"
        )


def drafted_block_size(config: EngineConfig, model: OrthrusLM) -> int:
    """Return the K that the diffusion view drafts, 0 in AR mode and where there is no head.

    Raises:
        ConfigError: more than the head's own, or nothing to draft with.
    """
    if config.needs_head and not model.config.has_head:
        raise ConfigError(
            "mode consensus needs a diffusion head or lookup_tokens > 0, and the model is a plain backbone: "
            "leave lookup_tokens out, or set mode: autoregressive"
        )
    if not config.uses_head(model.config):
        return 0
    own = model.config.block_size
    asked = own if config.block_size is None else config.block_size
    if asked > own:
        raise ConfigError(f"block_size must be <= {own}, the block size of the head, got {asked}")
    return asked


def check_context(config: EngineConfig, model: OrthrusLM) -> None:
    """Raise ConfigError if a sequence could outgrow the model's positions."""
    limit = model.config.max_position_embeddings
    if config.max_context > limit:
        raise ConfigError(
            f"max_context must be <= {limit}, the positions of the model, got {config.max_context}"
        )


class RequestAdmission:
    """Turns requests into sequences and says what is wrong with those that cannot run."""

    def __init__(self, model: OrthrusLM, config: EngineConfig, tokenizer: Decoder | None):
        self._max_context = config.max_context
        self._vocab_size = model.config.vocab_size
        self._default_stop_ids = _stop_ids_of(model)
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(
            tokenizer, vocab_size=self._vocab_size, mask_token_id=getattr(model.config, "mask_token_id", None)
        )
        self._edits = EditCompiler(tokenizer, vocab_size=self._vocab_size)

    def new_sequence(self, request_id: int, request: Request) -> Sequence:
        """Return the request as a sequence that has not run."""
        sequence = Sequence(
            request_id,
            list(request.prompt_ids),
            request.params,
            self._stop_ids(request.params),
            request.on_tokens,
            sample=request.sample,
            drafts=request.drafts,
            followed=request.followed,
            follows=request.follows,
        )
        if request.params.stop and self._tokenizer is not None:
            sequence.stop_strings = StopStrings(request.params.stop, self._tokenizer)
        return sequence

    def reason_to_reject(self, sequence: Sequence) -> str | None:
        """Return why the sequence cannot run; None if it can, and then it has its constraint and edits."""
        reason = self._fault_of_prompt(sequence)
        if reason is None:
            try:
                sequence.constraint = self._grammars.new_state(sequence.params, sequence.stop_ids)
                sequence.edits = self._edits.new_state(sequence.params, sequence.stop_ids)
            except RequestError as error:
                return str(error)
        return reason

    def _fault_of_prompt(self, sequence: Sequence) -> str | None:
        prompt_ids = sequence.token_ids
        if sequence.params.stop and sequence.stop_strings is None:
            return (
                f"stop has {list(sequence.params.stop)} but the engine has no tokenizer to find them with: "
                "pass Engine(model, config, tokenizer=...), or use stop_token_ids"
            )
        if not prompt_ids:
            return "prompt is empty: it needs at least one token"
        if len(prompt_ids) >= self._max_context:
            return f"prompt has {len(prompt_ids)} tokens, max_context is {self._max_context}"
        V = self._vocab_size
        if beyond := sorted(one for one in _own_stop_ids(sequence.params) if one >= V):
            return f"stop ids {beyond} can never come: the vocabulary has ids 0 to {V - 1}"
        for position, token_id in enumerate(prompt_ids):
            if not isinstance(token_id, int) or not 0 <= token_id < V:
                return f"prompt token {position} is {token_id!r}, the vocabulary has ids 0 to {V - 1}"
        return None

    def _stop_ids(self, params: SamplingParams) -> frozenset[int]:
        uses_default = params.eos_token_id is None and not params.ignore_eos
        return _own_stop_ids(params) | (self._default_stop_ids if uses_default else frozenset())


def _own_stop_ids(params: SamplingParams) -> frozenset[int]:
    """Return the ids that end a completion because the request says so."""
    eos = None if params.ignore_eos else params.eos_token_id
    own = () if eos is None else (eos,) if isinstance(eos, int) else eos
    return frozenset((*own, *params.stop_token_ids))


def _stop_ids_of(model: OrthrusLM) -> frozenset[int]:
    """Return the EOS ids of the generation config, else of the model config."""
    generation_config = getattr(model, "generation_config", None)
    eos = getattr(generation_config, "eos_token_id", None)
    if eos is None:
        eos = model.config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)
