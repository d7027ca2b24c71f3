"""How the authors' code is started."""

import contextlib
import sys
from collections.abc import Iterator

import torch

from orthrus_core.models.model import OrthrusLM
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.peers.process import PeerProcess
from pipelines.evaluate.peers.vllm import peer_of
from pipelines.evaluate.speed import Peers, show_dtype


@contextlib.contextmanager
def authors_peer(config: EvaluateConfig, model: OrthrusLM, model_path: str) -> Iterator[Peers]:
    """Run the authors' code on a checkpoint with a head, in the model's dtype, while the context lasts.

    Returns:
        Nothing where the config does not say where it is.
    Raises:
        OrthrusError: it did not start.
    """
    authors = config.authors
    if authors.path is None:
        yield {}
        return
    with PeerProcess(
        "the authors' code",
        python=authors.python or sys.executable,
        module="pipelines.evaluate.peers.authors_server",
        options={
            "model": model_path,
            "path": str(authors.path.resolve()),
            "dtype": show_dtype(model),
            "threads": torch.get_num_threads(),
        },
        environment={},
        log=config.vllm.directory / "authors.log",
        timeout_s=config.vllm.timeout_s,
    ) as process:
        yield {"authors": peer_of(process, process.name, config, model)}
