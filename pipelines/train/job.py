"""From a train config to a trained model directory: check, prepare data, train, go on where a run stopped."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from rich.console import Console

from orthrus_core.errors import ConfigError
from orthrus_core.training.checkpoint import STATE_FILE
from orthrus_core.training.trainer import Progress
from pipelines.cluster.config import RunConfig
from pipelines.cluster.lock import RunLock
from pipelines.cluster.session import RaySession
from pipelines.command.signals import StopSignals
from pipelines.storage.config import use_storage
from pipelines.storage.files import absolute, join, read_bytes
from pipelines.storage.output_path import check_output
from pipelines.train.backbone import Backbone, check_tokenizer_of_data, find_backbone, load_tokenizer
from pipelines.train.config import BackboneTrainConfig, HeadTrainConfig, TrainConfig
from pipelines.train.document_source import document_source
from pipelines.train.launch import run_here, run_on_ray, worker_resources
from pipelines.train.prepare import prepare_data
from pipelines.train.progress import TrainProgress
from pipelines.train.recipe import Output, check_recipe, recipe
from pipelines.train.rows import RowRules
from pipelines.train.snapshots import Snapshots, sweep_scratch
from pipelines.train.source import Source, find_rows
from pipelines.train.token_shards import TokenIndex
from pipelines.train.worker import DATA, Work, raise_error

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig, *, console: Console | None = None, stop: StopSignals | None = None
) -> Progress:
    """Run a train job to its end, from its beginning or from where an earlier try stopped.

    Args:
        console: where a bar may go.
        stop: signal handlers that stay in force while Ray runs.
    Returns:
        The last state; of a run that had been finished before, the stored one.
    Raises:
        ConfigError: paths, columns, sizes or a recipe in the config that cannot work.
        OrthrusError: the loss was no number, or workers were lost too often.
    """
    use_storage(config.storage)
    config = with_absolute_paths(config)
    check_output(config.output.path)
    output = Output(config.output.path)
    output.manifest()  # refuses a place of something else, before anything is written there
    backbone, hashes = check_model(config)
    if backbone is not None:
        logger.info("mask_token=%s", backbone.mask_token)
    with RunLock(output.run_url):
        source = _find_rows(config, backbone, output)
        identity = recipe(config, hashes | ({"data.fingerprint": source.fingerprint} if source else {}))
        if not _is_to_do(config, output, identity):
            logger.info("finished before path=%s: nothing to do", output.url)
            return Progress.from_state(json.loads(read_bytes(join(output.url, STATE_FILE)) or b"{}"))
        sweep_scratch(output.run_url)
        Snapshots(output.run_url, keep=config.output.keep_checkpoints).sweep()
        with _session(config, stop):
            work = Work(config, backbone, _prepare(config, source, backbone, output))
            output.begin(identity, config, _facts(work, source))
            return _run(work, console)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The config with local paths from the root: workers have a working directory of their own."""
    output = config.output.model_copy(update={"path": absolute(config.output.path)})
    if isinstance(config, BackboneTrainConfig):
        return config.model_copy(update={"output": output, "tokenizer": config.tokenizer.absolute()})
    return config.model_copy(update={"output": output})


def check_model(config: TrainConfig) -> tuple[Backbone | None, dict[str, str]]:
    """The backbone that a head is trained for, and the hashes that go into the recipe.

    Raises:
        ConfigError: there is none, or it does not fit the rest of the config.
    """
    if isinstance(config, HeadTrainConfig):
        backbone = find_backbone(config)
        hashes = {
            "backbone.hash": backbone.checkpoint.model_hash,
            "tokenizer.hash": backbone.checkpoint.tokenizer_hash,
            "head.mask_token_id": str(backbone.mask_token.id),
        }
        return backbone, hashes
    document_source(config.data.source)
    vocabulary = sorted(load_tokenizer(config.tokenizer).get_vocab().items())
    return None, {"tokenizer.hash": hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]}


def row_rules(config: HeadTrainConfig, backbone: Backbone) -> RowRules:
    """What a row must be like."""
    return RowRules(config.packing.sequence_len, backbone.vocab_size, backbone.mask_token.id)


def _find_rows(config: TrainConfig, backbone: Backbone | None, output: Output) -> Source | None:
    if backbone is None or not isinstance(config, HeadTrainConfig):
        return None
    is_begun = output.manifest() is not None and not config.output.overwrite
    source = find_rows(config.data, output.run_url, is_begun=is_begun)
    if config.data.check_tokenizer:
        check_tokenizer_of_data(backbone, source.manifests)
    return source


def _is_to_do(config: TrainConfig, output: Output, identity: dict[str, Any]) -> bool:
    """Whether anything is left to do; what is to be replaced has gone afterwards.

    Raises:
        ConfigError: the run that is there has another recipe, and is not to be replaced.
    """
    stored = output.manifest()
    if stored is None:
        return True
    if not config.output.overwrite:
        check_recipe(stored, identity, output)
        return not output.is_finished()
    try:
        check_recipe(stored, identity, output)
        is_other = False
    except ConfigError:
        is_other = True
    if is_other or output.is_finished():
        logger.warning("replacing the run in %s", output.url)
        output.clear(keep=("lock", "input"))
    return True


def _prepare(
    config: TrainConfig, source: Source | None, backbone: Backbone | None, output: Output
) -> TokenIndex | None:
    if source is None or backbone is None or not isinstance(config, HeadTrainConfig):
        return None
    return prepare_data(
        source,
        config.data,
        rules=row_rules(config, backbone),
        seed=config.seed,
        url=join(output.run_url, DATA),
        storage=config.storage,
        with_ray=config.scaling.workers > 0,
    )


def _facts(work: Work, source: Source | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if work.index is not None and source is not None:
        files = [shard.file.to_dict() for shard in source.plan.shards]
        facts["data"] = {
            "fingerprint": work.index.fingerprint,
            "counts": vars(work.index.counts),
            "files": files,
        }
    return facts


@contextmanager
def _session(config: TrainConfig, stop: StopSignals | None) -> Iterator[None]:
    """Ray, where workers are asked for.

    Raises:
        ConfigError: this machine has too few GPUs.
    """
    scaling = config.scaling
    if scaling.workers == 0:
        yield
        return
    cpus = worker_resources(config)["CPU"]
    run = RunConfig(ray_address=scaling.ray_address, actors=scaling.workers, cpus_per_actor=cpus)
    with closing(RaySession(run)) as session, session as is_local:
        if stop is not None:
            stop.install_again()
        if is_local:
            _check_resources(config)
        yield


def _check_resources(config: TrainConfig) -> None:
    """Refuse what this machine can never give; a cluster may still grow."""
    import ray

    for name, each in worker_resources(config).items():
        wanted, found = each * config.scaling.workers, ray.cluster_resources().get(name, 0.0)
        if wanted > found:
            raise ConfigError(
                f"scaling.workers={config.scaling.workers} need {wanted:g} {name}, Ray sees {found:g}: "
                "lower it, or scaling.resources_per_worker or num_threads"
            )


def _run(work: Work, console: Console | None) -> Progress:
    loop = work.config.loop
    with TrainProgress(max_tokens=loop.max_tokens, every_s=loop.log_every_s, console=console) as progress:
        launch = run_here if work.config.scaling.workers == 0 else run_on_ray
        outcome = launch(work, progress)
    raise_error(outcome)
    return Progress.from_state(outcome["progress"])
