"""The text of a config: a file beside the job, or at any URL that fsspec opens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orthrus_core.errors import ConfigError, OrthrusError


def read_config_text(path: str, storage: Mapping[str, Any]) -> str:
    """Read a config.

    Args:
        path: local file, or a URL such as s3://bucket/run.yaml.
        storage: how to reach a URL, as `--set storage.*` says it; what the config says is not known yet.
    Raises:
        ConfigError: it cannot be read.
    """
    from pipelines.storage import is_local
    from pipelines.urls import without_credentials

    try:
        without_credentials(path)
    except ValueError as error:
        raise ConfigError(f"--config {error}") from None
    content = Path(path).expanduser().read_bytes() if is_local(path) else _fetch(path, storage)
    return content.decode("utf-8")


def _fetch(url: str, storage: Mapping[str, Any]) -> bytes:
    from pipelines.storage import check_reachable, read_bytes
    from pipelines.storage_config import StorageConfig, use_storage

    try:
        use_storage(StorageConfig.model_validate(storage))
    except ValidationError:
        use_storage(StorageConfig())  # the whole config is refused for it in a moment, with all its mistakes
    try:
        check_reachable(url, "--config")
        content = read_bytes(url)
    except OrthrusError as error:
        raise ConfigError(f"cannot read config: {error}") from None
    if content is None:
        raise ConfigError(f"cannot read config {url}: no such file")
    return content
