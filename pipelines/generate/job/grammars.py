"""The grammar of a config, tried out before anything starts."""

from orthrus_core.choosers.grammar_compiler import GrammarCompiler
from orthrus_core.errors import ConfigError, RequestError
from orthrus_core.models.checkpoint import load_config as load_model_config
from pipelines.checkpoint.directory import Checkpoint, load_tokenizer
from pipelines.generate.config.job import GenerateConfig


def check_grammar(config: GenerateConfig, checkpoint: Checkpoint) -> None:
    """Compile the grammar that every row has to obey, if there is one, as the engine will.

    Raises:
        ConfigError: the library refuses it, or the tokenizer or the stop ids do not go with it.
    """
    params = config.sampling.params
    if params.grammar is None:
        return
    tokenizer = load_tokenizer(checkpoint.path)
    model = load_model_config(checkpoint.path, needs_head=config.decode.needs_head)
    eos = params.eos_token_id
    own = tokenizer.all_special_ids[:1] if eos is None else [eos] if isinstance(eos, int) else [*eos]
    compiler = GrammarCompiler(tokenizer, vocab_size=model.vocab_size)
    try:
        compiler.new_state(params, frozenset([*own, *params.stop_token_ids]))
    except RequestError as error:
        raise ConfigError(f"sampling.{error}") from None
