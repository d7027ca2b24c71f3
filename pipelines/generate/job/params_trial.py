"""The sampling options of a config and of the rows that a dry run tries, tried out before anything starts."""

from dataclasses import replace

from orthrus_core.choosers.edit_state import EditCompiler
from orthrus_core.choosers.grammar_compiler import GrammarCompiler
from orthrus_core.errors import ConfigError, RequestError
from orthrus_core.models.checkpoint import load_config as load_model_config
from orthrus_core.request import SamplingParams
from pipelines.checkpoint.directory import Checkpoint, load_tokenizer
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.prompt.row_params import with_overrides
from pipelines.generate.prompt.unit import RenderedRow


class ParamsTrial:
    """Compiles grammars and edits of logits as the engine will."""

    def __init__(self, config: GenerateConfig, checkpoint: Checkpoint):
        """Load the tokenizer and the model's config."""
        self._tokenizer = load_tokenizer(checkpoint.path)
        self._base = config.sampling.params
        model = load_model_config(checkpoint.path, needs_head=config.decode.needs_head)
        self._grammars = GrammarCompiler(self._tokenizer, vocab_size=model.vocab_size)
        self._edits = EditCompiler(self._tokenizer, vocab_size=model.vocab_size)

    def run(self, params: SamplingParams) -> None:
        """Try parameters out.

        Raises:
            RequestError: the library refuses a grammar, tokenizer or stop ids do not go with it, or ids are
                not the model's.
        """
        eos = params.eos_token_id
        own = (
            self._tokenizer.all_special_ids[:1] if eos is None else [eos] if isinstance(eos, int) else [*eos]
        )
        stop_ids = frozenset([*own, *params.stop_token_ids])
        self._grammars.new_state(params, stop_ids)
        self._edits.new_state(params, stop_ids)

    def of_row(self, row: RenderedRow) -> RenderedRow:
        """Return a row with the error that its own options would give it."""
        if row.error is not None or row.params is None or row.params.overrides is None:
            return row
        try:
            self.run(with_overrides(self._base, row.params.overrides))
        except RequestError as error:
            return replace(row, prompt_ids=None, error=str(error))
        return row


def check_params(config: GenerateConfig, checkpoint: Checkpoint) -> None:
    """Try the parameters of every row out, where there is anything to try.

    Raises:
        ConfigError: the engine would refuse them.
    """
    params = config.sampling.params
    if params.grammar is None and not params.edits_logits:
        return
    try:
        ParamsTrial(config, checkpoint).run(params)
    except RequestError as error:
        raise ConfigError(f"sampling.{error}") from None
