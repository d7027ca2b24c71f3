"""A LoRA adapter as the pipeline sees it: where it is, and what it is."""

from pathlib import Path

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.cache import list_model, listing_key, local_copy
from pipelines.checkpoint.directory import Checkpoint, hash_files, hub_snapshot, may_be_hub_id
from pipelines.storage.files import is_local
from pipelines.storage.working_dir import portable

FILES = ("adapter_config.json", "adapter_model.safetensors")


def locate_adapter(path: str) -> Checkpoint:
    """Find an adapter and hash it; one in a store or on the hub is fetched, since it is small.

    Args:
        path: directory, URL or hub id.
    Raises:
        ConfigError: nothing there, or no adapter with safetensors.
    """
    if not is_local(path):
        url = path.rstrip("/")
        key = listing_key(list_model(url))
        directory = local_copy(url, key, weights=True)
        return Checkpoint(directory, None, None, _hash(path, directory), "", url, key)
    directory = str(Path(path).expanduser().resolve())
    if Path(directory).is_dir():
        return Checkpoint(portable(directory), None, None, _hash(path, directory), "")
    missing = f"model.lora: no directory {path}"
    if not may_be_hub_id(path):
        raise ConfigError(missing)
    directory = hub_snapshot(path, FILES, missing)
    return Checkpoint(directory, path, Path(directory).name, _hash(path, directory), "")


def _hash(path: str, directory: str) -> str:
    """Hash of an adapter's files."""
    if missing := [name for name in FILES if not (Path(directory) / name).is_file()]:
        raise ConfigError(
            f"model.lora: {path} has no {', '.join(missing)}, so it is no adapter as peft saves it"
        )
    return hash_files([Path(directory) / name for name in FILES])
