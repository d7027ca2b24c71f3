"""One process of a run: builds model, data and trainer, goes on from the last checkpoint, trains, saves."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from orthrus_core.errors import ConfigError, OrthrusError
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.training.backbone import BackboneObjective, new_backbone
from orthrus_core.training.divergence import TrainingDiverged
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, PackedBatch, packed_batches
from orthrus_core.training.parallel import Parallel
from orthrus_core.training.trainer import Trainer
from pipelines.checkpoint.directory import fetch
from pipelines.config.versions import versions
from pipelines.storage.config import use_storage
from pipelines.storage.files import absolute, join, upload
from pipelines.train.backbone import Backbone, load_backbone, load_tokenizer
from pipelines.train.config import BackboneTrainConfig, HeadTrainConfig, TrainConfig
from pipelines.train.document_source import document_source
from pipelines.train.documents import ShardDocuments
from pipelines.train.model_card import CardFacts
from pipelines.train.recipe import Output, public_config
from pipelines.train.result import write_model
from pipelines.train.scalars import Scalars
from pipelines.train.snapshots import RunState, Snapshots, scratch
from pipelines.train.stream import Documents, PackedStream
from pipelines.train.token_shards import TokenIndex, held_out_documents

logger = logging.getLogger(__name__)

DATA = "data"  # prepared, below _run
DIVERGED = "diverged"

Post = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Work:
    """What all processes of a run are told; can be sent through Ray.

    Attributes:
        config: with absolute paths.
        backbone, index: of a head's run; None for a backbone from scratch.
    """

    config: TrainConfig
    backbone: Backbone | None = None
    index: TokenIndex | None = None

    @property
    def output(self) -> Output:
        """Where the run is."""
        return Output(absolute(self.config.output.path))


def run_worker(work: Work, *, device: torch.device, parallel: Parallel, post: Post) -> dict[str, Any]:
    """Train from the last checkpoint to the end, as one process of several.

    Args:
        post: takes the last figures, for whoever watches; called on rank 0.
    Returns:
        {"progress": state}, or {"error": text, "is_config": bool} for an error that a new try would meet
        again: Ray Train answers exceptions by trying again.
    """
    use_storage(work.config.storage)
    torch.set_num_threads(work.config.num_threads)
    run = None
    try:
        run = WorkerRun(work, device=device, parallel=parallel, post=post)
        return {"progress": run.train()}
    except TrainingDiverged as error:
        assert run is not None
        return {"error": f"{error}. {run.keep_batch(error)}", "is_config": False}
    except ConfigError as error:
        return {"error": str(error), "is_config": True}


class WorkerRun:
    """The parts of one process's run."""

    def __init__(self, work: Work, *, device: torch.device, parallel: Parallel, post: Post) -> None:
        """Build all of them and go to the last checkpoint, if there is one."""
        config = work.config
        self._work, self._config, self._parallel, self._post = work, config, parallel, post
        self._run_url = work.output.run_url
        self._snapshots = Snapshots(self._run_url, keep=config.output.keep_checkpoints)
        objective, self._tokenizer = build_objective(work, device, rank=parallel.rank)
        self._model = objective.module
        self._stream = PackedStream(self._documents(), config.packing)
        self._figures: dict[str, Any] = {}
        self._trainer = Trainer(
            objective,
            optimizer=config.optimizer,
            loop=config.loop,
            held_out=list(self._held_out()),
            save=self._save,
            report=self._report,
            parallel=parallel,
        )
        self._go_on()
        self._scalars = (
            None if parallel.rank else Scalars(self._run_url, first_step=self._trainer.progress.step + 1)
        )

    def train(self) -> dict[str, Any]:
        """Run to the end and write the model; the last state of progress."""
        progress = self._trainer.run(self._stream).state()
        if self._scalars is not None:
            self._scalars.close()
        write_model(
            self._model,
            self._parallel,
            progress,
            output=self._work.output,
            tokenizer=self._tokenizer_path(),
            config=self._config,
            card=partial(card_facts, self._work),
        )
        return progress

    def keep_batch(self, error: TrainingDiverged) -> str:
        """Save the batches that gave no numbers; says where they are, and the last good checkpoint."""
        own = None
        if error.is_here:
            name = f"step-{error.step:08}-rank-{self._parallel.rank}.pt"
            own = join(self._run_url, DIVERGED, name)
            with scratch(self._run_url) as directory:
                torch.save(error.batch.to(torch.device("cpu"))._asdict(), directory / name)
                upload(str(directory / name), own)
        kept = [url for url in self._parallel.gather(own) if url is not None]
        last = self._snapshots.list()
        good = last[-1].url if last else "none yet"
        return f"The batch is in {', '.join(kept)}; last good checkpoint: {good}"

    def _go_on(self) -> None:
        found = self._snapshots.load_last()
        if found is None:
            return
        snapshot, state = found
        self._trainer.load_state_dict(state.trainer)
        self._stream.load_state_dict(state.streams[self._parallel.rank])
        logger.info("resumed checkpoint=%s step=%d", snapshot.url, snapshot.step)

    def _save(self, trainer: Trainer) -> None:
        state = trainer.state_dict()
        streams = self._parallel.gather(self._stream.state_dict())
        if self._parallel.rank == 0:
            snapshot = self._snapshots.save(trainer.progress.step, RunState(state, streams))
            logger.info("saved checkpoint=%s step=%d", snapshot.url, snapshot.step)
            if self._scalars is not None:
                self._scalars.copy()

    def _report(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        if self._scalars is None:
            return
        self._scalars.add(kind, step, figures)
        if kind == "train":
            self._figures |= {**figures, "step": step}
        else:
            self._figures |= {
                "held_out": dict(figures),
                "step": step,
                "tokens": self._trainer.progress.tokens,
            }
        self._post(dict(self._figures))

    def _documents(self) -> Documents:
        config, rank, size = self._config, self._parallel.rank, self._parallel.world_size
        if isinstance(config, BackboneTrainConfig):
            source = document_source(config.data.source)
            return source.TrainingDocuments(
                self._tokenizer, seed=config.data.seed, rank=rank, world_size=size
            )
        assert self._work.index is not None
        return ShardDocuments(
            join(self._run_url, DATA),
            self._work.index,
            seed=config.seed,
            shuffle_documents=config.data.shuffle_documents,
            rank=rank,
            world_size=size,
        )

    def _held_out(self) -> list[PackedBatch]:
        packing = self._config.packing
        documents: list[Document]
        if isinstance(self._config, BackboneTrainConfig):
            data = self._config.data
            source = document_source(data.source)
            documents = source.held_out_documents(self._tokenizer, data.held_out_documents)
        else:
            documents = held_out_documents(join(self._run_url, DATA))
        return list(
            packed_batches(
                documents,
                sequence_len=packing.sequence_len,
                sequences_per_batch=packing.sequences_per_batch,
            )
        )

    def _tokenizer_path(self) -> str:
        if isinstance(self._config, BackboneTrainConfig):
            return str(self._config.tokenizer)
        assert self._work.backbone is not None
        return fetch(self._work.backbone.checkpoint)


def build_objective(work: Work, device: torch.device, *, rank: int) -> tuple[Any, Any]:
    """The objective with its model on `device`, and the tokenizer of a backbone's run."""
    config = work.config
    if isinstance(config, BackboneTrainConfig):
        tokenizer = load_tokenizer(config.tokenizer)
        model = new_backbone(
            config.backbone, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, seed=config.seed
        )
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        return (
            BackboneObjective(
                _on(model, device), config.backbone, precision=config.loop.precision, compiled=config.compile
            ),
            tokenizer,
        )
    assert work.backbone is not None
    model = add_diffusion_head(
        load_backbone(work.backbone.checkpoint),
        block_size=config.head.block_size,
        mask_token_id=work.backbone.mask_token.id,
        init=config.head.init,
        seed=config.seed,
    )
    # each process draws anchors of its own
    seed = config.seed + rank
    objective = HeadObjective(
        _on(model, device), config.head, precision=config.loop.precision, seed=seed, compiled=config.compile
    )
    return objective, None


def _on(model: PreTrainedModel, device: torch.device) -> Any:
    return model.to(device)  # type: ignore[arg-type]


def card_facts(work: Work, progress: Mapping[str, Any]) -> CardFacts:
    """What the model card tells of a run."""
    config, index = work.config, work.index
    is_head = isinstance(config, HeadTrainConfig)
    return CardFacts(
        name=work.output.url.rstrip("/").rsplit("/", 1)[-1],
        config=public_config(config),
        base=config.backbone if isinstance(config, HeadTrainConfig) else None,
        base_hash=work.backbone.checkpoint.model_hash if is_head and work.backbone else None,
        mask_token=str(work.backbone.mask_token) if work.backbone else None,
        data_fingerprint=index.fingerprint if index else None,
        counts=index.counts if index else None,
        progress=progress,
        versions=versions(),
    )


def raise_error(outcome: Mapping[str, Any]) -> None:
    """Raise what `run_worker` gave back in the place of an exception."""
    if "error" in outcome:
        raise (ConfigError if outcome["is_config"] else OrthrusError)(outcome["error"])
