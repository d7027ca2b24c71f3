"""The config that a command line names: a yaml file beside the job or at any URL, with values put over it.

Precedence: command line > yaml > default.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.config.faults import dotted, explain_fault
from pipelines.config.tree import apply_override, parse_yaml, yaml_fault
from pipelines.config.urls import without_credentials
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.files import check_reachable, is_local, read_bytes

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(cls: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a yaml config and put command-line values over it.

    Args:
        cls: the job's config model.
        path: yaml file, or a URL of one.
        overrides: `a.b=value` each, the value in yaml syntax.
    Raises:
        ConfigError: one line that names each bad key, its rule and its value.
    """
    tree = _read_yaml(str(path), _storage_of(overrides))
    for override in overrides:
        apply_override(tree, override)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines = {dotted(item["loc"]): explain_fault(item, cls) for item in reversed(error.errors())}
        raise ConfigError("; ".join(reversed(lines.values()))) from None


def _storage_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The section `storage` as the command line alone has it."""
    tree: dict[str, Any] = {}
    for override in overrides:
        if override.startswith("storage."):
            apply_override(tree, override)
    return tree.get("storage", {})


def _read_yaml(path: str, storage: dict[str, Any]) -> dict[str, Any]:
    """A config's tree; `storage` says how to reach a URL."""
    try:
        tree = parse_yaml(_read_text(path, storage))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not yaml: {yaml_fault(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must hold sections such as input and model")
    return tree


def _read_text(path: str, storage: Mapping[str, Any]) -> str:
    """Read a config.

    Args:
        path: local file, or a URL such as s3://bucket/run.yaml.
        storage: how to reach a URL, as `--set storage.*` says it; what the config says is not known yet.
    Raises:
        ConfigError: it cannot be read.
    """
    try:
        without_credentials(path)
    except ValueError as error:
        raise ConfigError(f"--config {error}") from None
    content = Path(path).expanduser().read_bytes() if is_local(path) else _fetch(path, storage)
    return content.decode("utf-8")


def _fetch(url: str, storage: Mapping[str, Any]) -> bytes:

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
