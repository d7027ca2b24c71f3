"""What a run would do: everything is checked and counted, nothing is written."""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.models.checkpoint import load_config
from orthrus_core.models.model import model_class
from orthrus_core.training.backbone import new_backbone
from orthrus_core.training.losses import BYTES_PER_LOGIT, chunk_rows
from pipelines.storage.config import use_storage
from pipelines.storage.files import check_reachable, join
from pipelines.train.backbone import Backbone, check_tokenizer_of_data, load_tokenizer
from pipelines.train.config import BackboneTrainConfig, HeadTrainConfig, TrainConfig
from pipelines.train.job import check_model, row_rules, with_absolute_paths
from pipelines.train.prepare import Preparation, collect, prepare_here
from pipelines.train.recipe import Output
from pipelines.train.source import find_rows
from pipelines.train.token_shards import check_held_out

UNITS_READ = 64  # of larger data, tokens and rows left out are estimated from the first ones
GIB = 2**30
OPTIMIZER_BYTES = {"muon": 4, "adamw": 8}  # a trained weight: one or two moments in FP32

Lines = list[tuple[str, str]]


def dry_run(config: TrainConfig) -> Lines:
    """Check a config as `train` does and count; (what, value) for each line to show.

    Raises:
        ConfigError: as `train`, but for what only shows in rows that were not read.
    """
    use_storage(config.storage)
    config = with_absolute_paths(config)
    check_reachable(config.output.path, "output.path")
    stored = Output(config.output.path).manifest()
    backbone, _ = check_model(config)
    lines = [("output", f"{config.output.path}{' (a run is there)' if stored else ''}")]
    if isinstance(config, HeadTrainConfig) and backbone is not None:
        lines += [("backbone", f"{config.backbone}, mask token {backbone.mask_token}")]
        lines += list(_rows(config, backbone))
    lines += list(_steps(config))
    return lines + list(_memory(config, backbone))


def _rows(config: HeadTrainConfig, backbone: Backbone) -> Iterator[tuple[str, str]]:
    rules = row_rules(config, backbone)
    with tempfile.TemporaryDirectory() as directory:  # for exports of data sets on the hub
        source = find_rows(config.data, join(directory, "_run"))
        if config.data.check_tokenizer:
            check_tokenizer_of_data(backbone, source.manifests)
        units = source.plan.units[:UNITS_READ]
        results = prepare_here(source, Preparation(source.columns, rules), units)
        _, counts = collect(results, config.data, rules)
    is_all = len(units) == len(source.plan.units)
    if is_all:
        check_held_out(config.data.held_out_documents, counts.used)
    share = source.plan.num_rows / max(1, counts.rows)
    about = "" if is_all else f" (estimated from the first {counts.rows})"
    left_out = (
        ", ".join(f"{n} {name}" for name, n in vars(counts).items() if n and name in LEFT_OUT) or "none"
    )
    yield "files", f"{len(source.plan.shards)}, fingerprint {source.fingerprint}"
    yield "rows", f"{source.plan.num_rows}, held out {config.data.held_out_documents}"
    yield "rows left out", left_out + about
    yield (
        "tokens",
        f"{counts.tokens * share:.0f}, of completions {counts.completion_tokens * share:.0f}{about}",
    )
    yield "epochs", f"about {config.loop.max_tokens / max(1.0, counts.tokens * share):.1f}{about}"


LEFT_OUT = ("errors", "no_prompt", "no_completion", "with_mask", "too_long")


def _steps(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Updates if every packed row were full; packing leaves a few percent free."""
    workers = max(1, config.scaling.workers)
    per_step = config.packing.sequence_len * config.packing.sequences_per_batch * workers
    per_step *= getattr(config.loop, "accumulate", 1)
    yield "workers", f"{config.scaling.workers}{'' if config.scaling.workers else ' (this process)'}"
    yield "tokens to train on", f"{config.loop.max_tokens}"
    yield "updates", f"about {-(-config.loop.max_tokens // per_step)} of up to {per_step} tokens"


def _memory(config: TrainConfig, backbone: Backbone | None) -> Iterator[tuple[str, str]]:
    model = _skeleton(config, backbone)
    is_head = isinstance(config, HeadTrainConfig)
    trained = sum(p.numel() for n, p in model.named_parameters() if not is_head or DIFFUSION_SUFFIX in n)
    total = sum(p.numel() for p in model.parameters())
    each = 8 + OPTIMIZER_BYTES[config.optimizer.kind]  # FP32 weight and gradient
    frozen = 2 if config.loop.frozen_precision == "bfloat16" else 4
    weights = trained * each + (total - trained) * frozen
    yield "parameters", f"{total:,}, trained {trained:,}"
    share = "" if config.scaling.mode == "ddp" else ", that of the layers shared out over the workers"
    yield "memory", f"{weights / GIB:.2f} GiB for weights, gradients and optimiser{share}"
    if isinstance(config, HeadTrainConfig):
        head = config.head
        vocab_size = model.config.vocab_size
        rows = head.rows_per_chunk or chunk_rows(vocab_size, head.loss_chunk_mib * 2**20)
        logits = BYTES_PER_LOGIT * rows * vocab_size
        yield "", f"{logits / GIB:.2f} GiB for a chunk of logits; activations come on top"


def _skeleton(config: TrainConfig, backbone: Backbone | None) -> Any:
    """The model without weights."""
    with torch.device("meta"):
        if isinstance(config, BackboneTrainConfig):
            tokenizer = load_tokenizer(config.tokenizer)
            return new_backbone(
                config.backbone,
                vocab_size=len(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
                seed=config.seed,
            )
        assert backbone is not None
        model = load_config(backbone.checkpoint.path, needs_head=False)
        return model_class(model.backbone_type)._from_config(model)
