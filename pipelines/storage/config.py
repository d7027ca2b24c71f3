"""How to reach object storage: the options of one process, handed to fsspec.

Credentials travel with the arguments of Ray's stages, inside pydantic's secret types, and are uncovered only
where fsspec keeps them, in memory.
"""

import logging
from collections.abc import Iterator
from typing import Any, Self

import fsspec.config
from pydantic import Field, Secret, SecretStr, model_validator

from pipelines.config.section import Section
from pipelines.config.urls import Url

SECRET_NAMES = ("key", "secret", "token", "password", "credential", "sas", "connection_string", "username")
SHORTEST_SECRET = 6  # shorter values occur in ordinary text
HIDDEN = "**********"


class StorageConfig(Section):
    """How to reach object storage; part of neither the run's identity nor of any file it writes."""

    endpoint_url: Url | None = Field(None, description="S3 endpoint; none: that of AWS or of the profile.")
    profile: str | None = Field(
        None, description="Profile of the AWS config files; they must be on every machine."
    )
    region: str | None = Field(None, description="S3 region.")
    anonymous: bool = Field(False, description="Send S3 requests unsigned, for public buckets.")
    key: SecretStr | None = Field(None, description="S3 access key id; none: found as boto3 does.")
    secret: SecretStr | None = Field(None, description="S3 secret access key.")
    token: SecretStr | None = Field(None, description="S3 session token.")
    attempts: int = Field(
        8, ge=1, le=20, description="Tries of a S3 request that fails for the moment, with growing pauses."
    )
    timeout_s: float = Field(
        30.0, gt=0, description="Seconds without a byte after which a S3 try has failed."
    )
    options: dict[str, Secret[dict[str, Any]]] = Field(
        default_factory=dict,
        description="Options of other fsspec file systems (and of s3fs), by protocol: {gs: {token: ...}}.",
    )

    @model_validator(mode="after")
    def _credentials_fit_together(self) -> Self:
        if (self.key is None) != (self.secret is None):
            raise ValueError("must have both of key and secret, or neither")
        if self.token is not None and self.key is None:
            raise ValueError("must have key and secret with token")
        given = [name for name in ("profile", "key") if getattr(self, name) is not None]
        if len(given) + self.anonymous > 1:
            raise ValueError("must have at most one of anonymous, profile, key")
        return self


def use_storage(config: StorageConfig) -> None:
    """Let this process reach storage as the config says; cheap when it does already.

    What environment and fsspec's own config files say stays, below the config.
    """
    wanted = _fsspec_config(config)
    if fsspec.config.conf != wanted:
        fsspec.config.conf.clear()
        fsspec.config.conf.update(wanted)
    _hide_in_logs()


def redact(text: str) -> str:
    """Return a text with every credential in use in this process blotted out: stores echo them at times."""
    for value in sorted(set(_secrets(fsspec.config.conf)), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


class RedactFilter(logging.Filter):
    """Blots credentials out of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the message where it holds one; never drops a record."""
        message = record.getMessage()
        if (hidden := redact(message)) != message:
            record.msg, record.args = hidden, None
        return True


def _hide_in_logs() -> None:
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, RedactFilter) for known in handler.filters):
            handler.addFilter(RedactFilter())


def _fsspec_config(config: StorageConfig) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    fsspec.config.set_conf_files(fsspec.config.conf_dir, tree)
    fsspec.config.set_conf_env(tree)
    _merge(tree.setdefault("s3", {}), _s3_options(config))
    for protocol, options in config.options.items():
        _merge(tree.setdefault("s3" if protocol == "s3a" else protocol, {}), options.get_secret_value())
    return tree


def _s3_options(config: StorageConfig) -> dict[str, Any]:
    """Arguments of s3fs.

    Retries are botocore's (mode "standard"): 500, 502, 503, 504, throttling, resets and timeouts, with random
    pauses that double up to 20 s. Listings are never cached: another driver may write at any time.
    """
    options: dict[str, Any] = {
        "use_listings_cache": False,
        "config_kwargs": {
            "retries": {"mode": "standard", "total_max_attempts": config.attempts},
            "read_timeout": config.timeout_s,
            "max_pool_connections": 32,
        },
    }
    plain = {"endpoint_url": config.endpoint_url, "profile": config.profile, "anon": config.anonymous or None}
    secrets = {name: getattr(config, name) for name in ("key", "secret", "token")}
    options |= {name: value for name, value in plain.items() if value is not None}
    options |= {name: value.get_secret_value() for name, value in secrets.items() if value is not None}
    if config.region is not None:
        options["client_kwargs"] = {"region_name": config.region}
    return options


def _merge(under: dict[str, Any], over: dict[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(name), dict):
            _merge(under[name], value)
        else:
            under[name] = value


def _secrets(tree: Any, is_secret: bool = False) -> Iterator[str]:
    """Strings of a tree of options that stand below a name of a secret."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _secrets(value, is_secret or any(part in str(name).lower() for part in SECRET_NAMES))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _secrets(value, is_secret)
    elif is_secret and isinstance(tree, str) and len(tree) >= SHORTEST_SECRET:
        yield tree
