"""How vLLM is started, and the checkpoint that it reads."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from orthrus_core.evaluation.systems import eos_ids_of
from orthrus_core.models.head import remove_diffusion_head
from orthrus_core.models.model import OrthrusLM
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.peers.process import PeerProcess
from pipelines.evaluate.speed import Peers, show_dtype

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def vllm_peer(config: EvaluateConfig, model: OrthrusLM, *, max_sequences: int) -> Iterator[Peers]:
    """Run vLLM on a model's backbone, in its dtype, while the context lasts.

    Returns:
        Its name and, given how many requests shall be in flight, the system; nothing where vLLM is not
        installed.
    Raises:
        OrthrusError: it did not start.
    """
    if not config.vllm.python.exists():
        yield {}
        return
    dtype = show_dtype(model)
    launch = vllm_launch(
        config.vllm.python,
        export_backbone(model, config.vllm.directory / f"backbone-{dtype}"),
        dtype=dtype,
        max_context=config.decode.max_context,
        max_sequences=max_sequences,
        compiled=config.vllm.compiled,
        threads=torch.get_num_threads(),
        directory=config.vllm.directory,
        log="vllm.log",
        timeout_s=config.vllm.timeout_s,
    )
    limits: dict[str, Any] = {
        "max_new_tokens": config.sampling.max_new_tokens,
        "eos_ids": eos_ids_of(model, config.sampling),
    }
    with PeerProcess("vLLM", **launch) as process:
        yield {f"vLLM {process.version}": lambda batch: process.system(in_flight=batch, **limits)}


def vllm_launch(
    python: Path,
    backbone: Path,
    *,
    dtype: str,
    max_context: int,
    max_sequences: int,
    compiled: bool,
    threads: int,
    directory: Path,
    log: str,
    timeout_s: float,
) -> dict[str, Any]:
    """Arguments of `PeerProcess`.

    Args:
        python: interpreter of vLLM's environment.
        backbone: a plain checkpoint.
        dtype: of its weights and activations, by name.
        directory: for its caches and logs.
        log: name of its log file.
    """
    return {
        "python": python.absolute(),  # not resolved: the link's place is what makes it that environment's
        "module": "pipelines.evaluate.peers.vllm_server",
        "options": {
            "model": str(backbone.resolve()),
            "dtype": dtype,
            "max_context": max_context,
            "max_sequences": max_sequences,
            "compiled": compiled,
        },
        "environment": vllm_environment(directory, threads),
        "log": directory / log,
        "timeout_s": timeout_s,
    }


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
