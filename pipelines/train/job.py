"""From a train config to a trained model directory."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from orthrus_core.errors import ConfigError
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.training.backbone import BackboneObjective, new_backbone
from orthrus_core.training.checkpoint import (
    check_output_directory,
    replace_directory,
    round_to_bfloat16,
    save_model,
)
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, PackedBatch, packed_batches
from orthrus_core.training.trainer import Objective, Progress, Trainer
from pipelines.demo.answers import share_of_right_answers
from pipelines.train.config import BackboneTrainConfig, HeadTrainConfig, TrainConfig
from pipelines.train.data import row_documents, shuffled_epochs, split_documents, task_documents, task_stream

logger = logging.getLogger(__name__)

CONFIG_FILE = "train_config.yaml"
HELD_OUT_SEED = 7


def train(config: TrainConfig) -> Progress:
    """Run a train job from start to end; the model directory is `config.output.path`.

    Raises:
        ConfigError: paths, columns or sizes in the config that cannot work.
    """
    check_output_directory(config.output.path, overwrite=config.output.overwrite)
    torch.set_num_threads(config.num_threads)
    if isinstance(config, BackboneTrainConfig):
        return _train_backbone(config)
    return _train_head(config)


def _train_backbone(config: BackboneTrainConfig) -> Progress:
    tokenizer = load_tokenizer(config.tokenizer)
    model = new_backbone(
        config.backbone, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, seed=config.seed
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    objective = BackboneObjective(
        model, config.backbone, precision=config.loop.precision, compiled=config.compile
    )
    held_out = task_documents(
        tokenizer, seed=HELD_OUT_SEED, num_tasks=config.data.held_out_documents, split="heldout"
    )
    progress = _run(
        config, objective, model, tokenizer, task_stream(tokenizer, seed=config.data.seed), held_out
    )
    if config.data.held_out_answers:
        round_to_bfloat16(model)
        model.set_attn_implementation("sdpa")
        right = share_of_right_answers(
            model, tokenizer, seed=HELD_OUT_SEED + 1, num_tasks=config.data.held_out_answers
        )
        progress.history.append({"step": progress.step, "tokens": progress.tokens, "right_answers": right})
        logger.info("answers right=%.4f of=%d", right, config.data.held_out_answers)
        _save(config, model, tokenizer, progress)
    return progress


def _train_head(config: HeadTrainConfig) -> Progress:
    tokenizer = load_tokenizer(config.backbone)
    model = add_diffusion_head(
        load_backbone(config.backbone),
        block_size=config.head.block_size,
        mask_token_id=_mask_token_id(config, tokenizer),
    )
    objective = HeadObjective(
        model, config.head, precision=config.loop.precision, seed=config.seed, compiled=config.compile
    )
    rows = row_documents(config.data, sequence_len=config.packing.sequence_len)
    held_out, documents = split_documents(rows, num_held_out=config.data.held_out_documents, seed=config.seed)
    return _run(
        config, objective, model, tokenizer, shuffled_epochs(documents, seed=config.seed), iter(held_out)
    )


def _mask_token_id(config: HeadTrainConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    if config.head.mask_token_id is not None:
        return config.head.mask_token_id
    if tokenizer.mask_token_id is None:
        raise ConfigError(f"the tokenizer in {config.backbone} has no mask token: set head.mask_token_id")
    return tokenizer.mask_token_id


def load_backbone(path: Path) -> PreTrainedModel:
    """Load a plain causal LM in FP32.

    Raises:
        ConfigError: there is no loadable model in `path`.
    """
    _check_is_directory(path)
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"no loadable backbone in {path}: {error}") from error


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer directory.

    Raises:
        ConfigError: there is none, or it lacks an end-of-sequence token.
    """
    _check_is_directory(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer in {path}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer in {path} has no end-of-sequence token")
    return tokenizer


def _check_is_directory(path: Path) -> None:
    # transformers would take any other text for the name of a model on the hub, and ask the network.
    if not path.is_dir():
        raise ConfigError(f"{path} is no directory: download or train the model first")


def _run(
    config: TrainConfig,
    objective: Objective,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterator[Document],
    held_out: Iterator[Document],
) -> Progress:
    trainer = Trainer(
        objective,
        optimizer=config.optimizer,
        loop=config.loop,
        held_out=list(_pack(held_out, config)),
        save=lambda progress: _save(config, model, tokenizer, progress),
    )
    return trainer.run(_pack(documents, config))


def _pack(documents: Iterator[Document], config: TrainConfig) -> Iterator[PackedBatch]:
    return packed_batches(
        documents,
        sequence_len=config.packing.sequence_len,
        sequences_per_batch=config.packing.sequences_per_batch,
    )


def _save(
    config: TrainConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> None:
    def write(directory: Path) -> None:
        save_model(model, directory, state=progress.state())
        tokenizer.save_pretrained(directory)
        (directory / CONFIG_FILE).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    replace_directory(config.output.path, write)
    logger.info("saved path=%s step=%d tokens=%d", config.output.path, progress.step, progress.tokens)
