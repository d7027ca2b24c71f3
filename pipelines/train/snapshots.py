"""Checkpoints of a run: complete or absent on any store, the last few kept."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.storage.files import download, is_local, join, put, read_bytes, remove_tree, upload
from pipelines.storage.listing import list_tree

logger = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
STATE, STREAMS, MANIFEST = "state.pt", "streams.json", "manifest.json"
SCRATCH = ".scratch-"
CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Snapshot:
    """A complete checkpoint.

    Attributes:
        url: its directory. step: updates done.
        files: name to {size, sha256}.
    """

    url: str
    step: int
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RunState:
    """What a run needs to go on.

    Attributes:
        trainer: the trainer's state: trained weights, optimiser, progress, objective.
        streams: data position of every rank.
    """

    trainer: dict[str, Any]
    streams: list[dict[str, Any]]


class Snapshots:
    """The checkpoints of one run, in directories `step-NNNNNNNN`.

    The manifest with sizes and hashes is written last, so that a directory without one, or whose files do not
    fit it, is no checkpoint; each file for itself is put by rename, or in one request. Whatever dies when,
    `load_last` finds the last complete one.
    """

    def __init__(self, run_url: str, *, keep: int) -> None:
        """Args: run_url is the `_run` directory; keep is how many to keep."""
        self._run_url = run_url
        self._url = join(run_url, DIRECTORY)
        self._keep = keep

    def save(self, step: int, state: RunState) -> Snapshot:
        """Write a checkpoint, then remove those that are too many."""
        url = join(self._url, f"step-{step:08}")
        if (stored := self._read(url)) is not None and self._is_whole(stored):
            return stored  # of a run that was interrupted, and has come to the same step again
        with scratch(self._run_url) as directory:
            torch.save(state.trainer, directory / STATE)
            (directory / STREAMS).write_text(json.dumps(state.streams))
            files = {name: _facts(directory / name) for name in (STATE, STREAMS)}
            for name in files:
                upload(str(directory / name), join(url, name))
        put(join(url, MANIFEST), json.dumps({"step": step, "files": files}, indent=1).encode())
        self._remove_others(step)
        return Snapshot(url, step, files)

    def list(self) -> list[Snapshot]:
        """Checkpoints that have a manifest, oldest first."""
        marks = [file.url for file in list_tree(self._url) if file.url.endswith(f"/{MANIFEST}")]
        found = (self._read(mark.removesuffix(f"/{MANIFEST}")) for mark in marks)
        return sorted((snapshot for snapshot in found if snapshot), key=lambda snapshot: snapshot.step)

    def load_last(self) -> tuple[Snapshot, RunState] | None:
        """The last checkpoint that is whole, and where it is; None: there is none."""
        for snapshot in reversed(self.list()):
            with scratch(self._run_url) as directory:
                if self._fetch(snapshot, directory):
                    return snapshot, _load(directory)
            logger.warning("checkpoint_damaged url=%s; an older one is taken", snapshot.url)
        return None

    def sweep(self) -> None:
        """Remove what saves that died have left."""
        files = [file.url for file in list_tree(self._url)]
        whole = {url.rsplit("/", 1)[0] for url in files if url.endswith(f"/{MANIFEST}")}
        for directory in sorted({url.rsplit("/", 1)[0] for url in files} - whole):
            remove_tree(directory)

    def _remove_others(self, step: int) -> None:
        """Keep the last ones up to a step; later ones are damaged, else it had gone on from there."""
        found = self.list()
        earlier = [snapshot for snapshot in found if snapshot.step <= step]
        for snapshot in (*earlier[: -self._keep], *(later for later in found if later.step > step)):
            remove_tree(snapshot.url)

    def _fetch(self, snapshot: Snapshot, directory: Path) -> bool:
        """Copy a checkpoint's files here; whether they are what was saved."""
        for name, facts in snapshot.files.items():
            try:
                download(join(snapshot.url, name), str(directory / name))
            except FileNotFoundError:
                return False
            if _facts(directory / name) != facts:
                return False
        return True

    def _is_whole(self, snapshot: Snapshot) -> bool:
        with scratch(self._run_url) as directory:
            return self._fetch(snapshot, directory)

    def _read(self, url: str) -> Snapshot | None:
        stored = read_bytes(join(url, MANIFEST))
        if stored is None:
            return None
        tree = json.loads(stored)
        return Snapshot(url, tree["step"], tree["files"])


@contextmanager
def scratch(run_url: str) -> Iterator[Path]:
    """A directory on this machine, on the run's own file system where that is local, gone afterwards."""
    if is_local(run_url):
        Path(run_url).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=run_url if is_local(run_url) else None) as name:
        yield Path(name)


def sweep_scratch(run_url: str) -> None:
    """Remove what a killed process left in a local run's directory."""
    if is_local(run_url):
        for left_over in Path(run_url).glob(f"{SCRATCH}*"):
            remove_tree(str(left_over))


def _facts(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def _load(directory: Path) -> RunState:
    trainer = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    return RunState(trainer, json.loads((directory / STREAMS).read_text()))
