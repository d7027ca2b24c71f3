"""The text of a config: a file beside the job, or at any URL that fsspec opens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orthrus_core.errors import ConfigError, OrthrusError


class _OneKeyLoader(yaml.SafeLoader):
    """Refuses a key that a section has twice: yaml itself takes the last one and forgets the others."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in first:
                fault = f"key {key.value} is there already in line {first[key.value]}, and again"
                raise yaml.MarkedYAMLError(problem=fault, problem_mark=key.start_mark)
            first[key.value] = key.start_mark.line + 1
        return node


def parse_yaml(text: str) -> Any:
    """A yaml text as plain values.

    Raises:
        YAMLError: it is none, or a section has a key twice.
    """
    return yaml.load(text, _OneKeyLoader)


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
