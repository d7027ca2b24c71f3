"""The end of a run: a normal model directory with tokenizer, recipe, figures and model card."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedModel

from orthrus_core.models.checkpoint import CONFIG_FILE
from orthrus_core.training.checkpoint import STATE_FILE, save_model
from orthrus_core.training.parallel import Parallel
from pipelines.checkpoint.directory import TOKENIZER_FILES
from pipelines.storage.files import join, remove, upload
from pipelines.train.backbone import load_tokenizer
from pipelines.train.config import BackboneTrainConfig, TrainConfig
from pipelines.train.document_source import document_source
from pipelines.train.model_card import CardFacts, model_card
from pipelines.train.recipe import Output, public_config
from pipelines.train.snapshots import scratch

logger = logging.getLogger(__name__)

RECIPE_FILE = "train_config.yaml"
CARD_FILE = "README.md"
LAST_FILES = (CONFIG_FILE, STATE_FILE)  # without the first it is no model, without the second unfinished


def write_model(
    model: PreTrainedModel,
    parallel: Parallel,
    progress: dict[str, Any],
    *,
    output: Output,
    tokenizer: str,
    config: TrainConfig,
    card: Callable[[Mapping[str, Any]], CardFacts],
) -> None:
    """Write the trained model; called by every process, rank 0 writes.

    Args:
        progress: last state; gets the share of right answers, where they are asked for.
        tokenizer: directory whose tokenizer files are copied as they are.
        card: the model card for a state of progress.
    """
    weights = parallel.whole_state(model, dtype=torch.bfloat16)
    if parallel.rank:
        return
    with scratch(output.run_url) as directory:
        save_model(model, directory, state=progress, weights=weights)
        copy_tokenizer(tokenizer, directory)
        if isinstance(config, BackboneTrainConfig) and config.data.held_out_answers:
            progress["history"].append(_answers(directory, config, progress))
        (directory / STATE_FILE).write_text(json.dumps(progress, indent=1) + "\n")
        (directory / RECIPE_FILE).write_text(yaml.safe_dump(public_config(config), sort_keys=False))
        (directory / CARD_FILE).write_text(model_card(card(progress)))
        publish(directory, output.url)
    logger.info("model_written path=%s step=%d tokens=%d", output.url, progress["step"], progress["tokens"])


def copy_tokenizer(source: str, directory: Path) -> None:
    """Copy a tokenizer's files byte for byte, so that its hash stays what it is."""
    for name in TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copy(Path(source) / name, directory / name)


def publish(directory: Path, url: str) -> None:
    """Move a directory's files to a URL, those that say it is complete at the end."""
    for name in LAST_FILES:
        remove(join(url, name))
    names = [file.name for file in sorted(directory.iterdir()) if file.name not in LAST_FILES]
    for name in (*names, *LAST_FILES):
        upload(str(directory / name), join(url, name))


def _answers(directory: Path, config: BackboneTrainConfig, progress: Mapping[str, Any]) -> dict[str, float]:
    """The share of right answers of the model as it was written: rounded to BF16, run in FP32."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    count = config.data.held_out_answers
    right = document_source(config.data.source).right_answers(model, load_tokenizer(directory), count)
    logger.info("answers right=%.4f of=%d", right, count)
    return {"step": progress["step"], "tokens": progress["tokens"], "right_answers": right}
