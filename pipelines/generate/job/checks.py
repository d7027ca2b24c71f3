"""What a generate job refuses that its sections cannot know each alone."""

import pyarrow as pa

from orthrus_core.errors import ConfigError
from orthrus_core.models.checkpoint import load_config as load_model_config
from orthrus_core.models.weights import check_weights
from pipelines.checkpoint.directory import Checkpoint
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.ledger.ledger import Ledger
from pipelines.read.columns import TableLayout


def check_model(config: GenerateConfig, checkpoint: Checkpoint, adapter: Checkpoint | None = None) -> None:
    """Refuse what the engine would refuse, minutes earlier."""
    _check_room(config)
    if config.input.prompt.turns and config.sampling.prompt_logprobs:
        raise ConfigError(
            "sampling.prompt_logprobs must be without input.prompt.turns; score prompts in a run of their own"
        )
    decode = config.decode
    model = load_model_config(checkpoint.path, needs_head=decode.needs_head)
    check_weights(model, config.model.weights)
    if decode.uses_head(model) and (decode.block_size or 0) > model.block_size:
        raise ConfigError(
            f"decode.block_size must be <= {model.block_size}, the head's own, got {decode.block_size}"
        )
    if decode.max_context > model.max_position_embeddings:
        raise ConfigError(
            f"decode.max_context must be <= {model.max_position_embeddings}, the model's positions, "
            f"got {decode.max_context}"
        )
    if (ranks := config.model.tensor_parallel) > 1:
        from orthrus_core.models.slices import check_slices  # which imports every model

        if adapter is not None:
            raise ConfigError(
                "model.lora cannot be merged into slices of model.tensor_parallel: merge it with peft, and "
                "take the merged model as it is"
            )
        if config.model.weights != "auto":
            raise ConfigError(
                f"model.weights: {config.model.weights} does not go with model.tensor_parallel, whose "
                "slices keep their dtype: leave one of them out"
            )
        check_slices(model, ranks)
    if adapter is not None:
        from orthrus_core.models.loading import check_lora  # which imports every model

        check_lora(checkpoint.path, adapter.path)


def _check_room(config: GenerateConfig) -> None:
    prompt, max_context = config.input.prompt, config.decode.max_context
    room = prompt.room or (1 if prompt.overlong == "error" else config.sampling.max_new_tokens)
    if room >= max_context:
        name = "input.prompt.room" if prompt.room else "input.prompt.room (none: sampling.max_new_tokens)"
        raise ConfigError(f"{name} must be < decode.max_context, {max_context}, got {room}")


def check_repair(ledger: Ledger, config: GenerateConfig) -> None:
    """Refuse to repair what is no run yet, or with less context than it had."""
    stored = ledger.manifest()
    if stored is None:
        raise ConfigError(f"--only-failed: output.path {ledger.url} holds no run yet")
    before = stored["identity"].get("decode.max_context", 0)
    if config.decode.max_context < before:
        raise ConfigError(
            f"--only-failed: decode.max_context must be >= {before}, that of the run, "
            f"got {config.decode.max_context}"
        )


def check_group_by(config: GenerateConfig, layout: TableLayout) -> None:
    """Refuse groups by columns that are not carried."""
    missing = [name for name in config.report.group_by if name not in layout.carried.names]
    if missing:
        raise ConfigError(
            f"report.group_by: {', '.join(missing)} is no carried column; there are "
            f"{', '.join(layout.carried.names) or 'none'}"
        )


def check_keep(config: GenerateConfig, layout: TableLayout) -> None:
    """Refuse a filter by a column that is not written, or no bool."""
    name = config.output.filters.keep
    known = [one.name for one in (*layout.carried, *layout.made) if pa.types.is_boolean(one.type)]
    if name is not None and name not in known:
        raise ConfigError(
            f"output.filters.keep: {name} is no column of type bool, carried or in output.map_columns; there "
            f"are {', '.join(known) or 'none'}"
        )
