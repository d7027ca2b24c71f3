"""The model directory as the pipeline sees it: where it is, what it is (hashes), and its tokenizer."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.cache import SMALL_FILES, list_model, listing_key, local_copy
from pipelines.config.model import ModelConfig
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import is_local
from pipelines.storage.working_dir import portable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHOLE_FILE_BYTES = 64 * 2**20
SAMPLE_BYTES = 2**16
SAMPLES = 64
UNREAD_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.py")  # of a hub model: pickles and code
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found.

    Attributes:
        path: local directory on the driver, relative where it lies in the working directory of a submitted
            job; of a hub or remote model, everything but the weights.
        hub_id, revision: of a hub model, its id and commit.
        model_hash, tokenizer_hash: change when the model or its tokenizer does.
        url, key: of a model in object storage, where it is and the hash of its listing.
    """

    path: str
    hub_id: str | None
    revision: str | None
    model_hash: str
    tokenizer_hash: str
    url: str | None = None
    key: str | None = None

    @property
    def source(self) -> str:
        """What `load_tokenizer` takes on any machine: a directory, or `URL#KEY` of a remote model."""
        return self.path if self.url is None else f"{self.url}#{self.key}"


def locate(model: ModelConfig) -> Checkpoint:
    """Find a model on disk or on the hub and hash it; no weights are loaded or downloaded.

    Raises:
        ConfigError: no such directory or hub model, or no config.json in it.
    """
    if not is_local(model.path):
        return _locate_remote(model.path.rstrip("/"))
    directory = Path(model.path).expanduser()
    missing = f"model.path: no directory {model.path} (looked in {os.getcwd()})"
    if directory.is_dir():
        path, hub_id, revision = portable(str(directory.resolve())), None, None
    elif may_be_hub_id(model.path):
        path = hub_snapshot(model.path, SMALL_FILES, missing, model.revision)
        hub_id, revision = model.path, Path(path).name
    else:
        raise ConfigError(missing)
    if not (Path(path) / "config.json").is_file():
        raise ConfigError(f"model.path: {model.path} has no config.json, so it is no model directory")
    if hub_id is None:
        _refuse_pickle(model.path, [file.name for file in Path(path).iterdir()])
    model_hash = revision or hash_files(_model_files(Path(path)))
    tokenizer_hash = hash_files([Path(path) / name for name in TOKENIZER_FILES])
    return Checkpoint(path, hub_id, revision, model_hash, tokenizer_hash)


def fetch(checkpoint: Checkpoint) -> str:
    """Local directory with the weights; downloads a hub or remote model on the machine that calls."""
    if checkpoint.url is not None and checkpoint.key is not None:
        return local_copy(checkpoint.url, checkpoint.key, weights=True)
    if checkpoint.hub_id is None:
        return checkpoint.path
    from huggingface_hub import snapshot_download

    return snapshot_download(
        checkpoint.hub_id, revision=checkpoint.revision, ignore_patterns=list(UNREAD_FILES)
    )


def load_tokenizer(path: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model directory, or of a `Checkpoint.source`.

    Raises:
        ConfigError: no usable tokenizer files.
    """
    from transformers import AutoTokenizer

    import orthrus_core.models.config  # noqa: F401  AutoTokenizer reads the model's config too

    url, mark, key = path.partition("#")
    if mark and not is_local(url):
        path = local_copy(url, key, weights=False)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a bad directory
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.path: no usable tokenizer in {path}: {reason:.300}") from error


def _locate_remote(url: str) -> Checkpoint:
    """A model in object storage, known by its listing; only its small files are fetched."""
    files = list_model(url)
    names = {file.url.rsplit("/", 1)[-1] for file in files}
    if "config.json" not in names:
        raise ConfigError(f"model.path: {url} has no config.json, so it is no model directory")
    _refuse_pickle(url, names)
    key = listing_key(files)
    path = local_copy(url, key, weights=False)
    tokenizer_hash = hash_files([Path(path) / name for name in TOKENIZER_FILES])
    return Checkpoint(path, None, None, _hash_listing(files, url), tokenizer_hash, url, key)


def _hash_listing(files: list[FileInfo], url: str) -> str:
    """Hash of names, sizes and etags of the files that make the model: its weights are not at hand."""
    digest = hashlib.sha256()
    for file in files:
        name = file.url.removeprefix(f"{url}/")
        if name in ("config.json", "generation_config.json") or name.endswith((".safetensors", ".bin")):
            digest.update(f"{name}:{file.size}:{file.etag}\n".encode())
    return digest.hexdigest()[:16]


def _refuse_pickle(path: str, names: Iterable[str]) -> None:
    """Refuse weights that run code where they are read, here rather than minutes later in the actors."""
    from orthrus_core.models.checkpoint import (
        refuse_pickle,
    )  # late: importing the core's models takes seconds

    refuse_pickle(path, names)


def may_be_hub_id(path: str) -> bool:
    """Whether a path that is no directory can be owner/name."""
    owner, slash, name = path.partition("/")
    return bool(slash and owner and name) and "/" not in name and owner not in (".", "..", "~")


def hub_snapshot(path: str, files: Iterable[str], missing: str, revision: str | None = None) -> str:
    """Directory of a hub repository with some of its files.

    Args:
        missing: what to say where it is not on the hub either.
    """
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(path, revision=revision, allow_patterns=list(files))
    except Exception as error:  # offline, unknown, gated: all the user's to repair
        reason = " ".join(str(error).split())
        raise ConfigError(f"{missing}, and the hub says {type(error).__name__}: {reason:.300}") from error


def _model_files(path: Path) -> list[Path]:
    names = ["config.json", "generation_config.json"]
    return [path / name for name in names] + sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin"))


def hash_files(files: list[Path]) -> str:
    """Hash of the files that exist, with their names.

    Of a file above 64 MiB, its size, its first bytes (safetensors: names, shapes) and 64 pieces spread over
    it: a training step changes nearly every weight, and hashing 16 GB would take half a minute.
    """
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}\n".encode())
            with file.open("rb") as handle:
                if size <= WHOLE_FILE_BYTES:
                    digest.update(handle.read())
                    continue
                for sample in range(SAMPLES):
                    handle.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                    digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
