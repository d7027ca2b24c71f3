"""How vLLM is started, and the checkpoint that it reads."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from orthrus_core.evaluation.systems import eos_ids_of
from orthrus_core.models.head import remove_diffusion_head
from orthrus_core.models.model import OrthrusLM
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.peers.process import PeerProcess
from pipelines.evaluate.speed import Peer, Peers, show_dtype

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def vllm_peer(config: EvaluateConfig, model: OrthrusLM, *, max_sequences: int) -> Iterator[Peers]:
    """Run vLLM on a model's backbone, in its dtype, while the context lasts.

    Returns:
        Nothing where it is not installed.
    Raises:
        OrthrusError: it did not start.
    """
    if not config.vllm.python.exists():
        yield {}
        return
    dtype, directory = show_dtype(model), config.vllm.directory
    with PeerProcess(
        "vLLM",
        python=config.vllm.python.absolute(),  # not resolved: the link's place makes it that environment's
        module="pipelines.evaluate.peers.vllm_server",
        options={
            "model": str(export_backbone(model, directory / f"backbone-{dtype}").resolve()),
            "dtype": dtype,
            "max_context": config.decode.max_context,
            "max_sequences": max_sequences,
            "compiled": config.vllm.compiled,
        },
        environment=vllm_environment(directory, torch.get_num_threads()),
        log=directory / "vllm.log",
        timeout_s=config.vllm.timeout_s,
    ) as process:
        yield {"vllm": peer_of(process, f"vLLM {process.version}", config, model)}


def peer_of(process: PeerProcess, shown: str, config: EvaluateConfig, model: OrthrusLM) -> Peer:
    """Return a process as a peer that keeps to the job's limits and the model's EOS."""
    eos_ids, most = eos_ids_of(model, config.sampling), config.sampling.max_new_tokens
    return Peer(shown, lambda batch: process.system(in_flight=batch, max_new_tokens=most, eos_ids=eos_ids))


def vllm_environment(directory: Path, threads: int) -> dict[str, str]:
    """Settings under which vLLM was fastest here.

    Its engine in the process that asks made 840 to 1,040 tokens/s with one request in flight where the
    default, an engine and a worker process behind it, made 200 to 530: messages between processes take longer
    than a small model's step.
    """
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CACHE_ROOT": str((directory / "vllm-cache").resolve()),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def export_backbone(model: OrthrusLM, directory: Path) -> Path:
    """Save the model without its head, as a plain checkpoint."""
    logger.info("exporting the backbone to %s", directory)
    remove_diffusion_head(model).save_pretrained(directory)
    return directory
