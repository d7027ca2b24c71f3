"""What makes two runs the same run: the recipe, without where files are, speed and rhythm."""

import json
import time
from collections.abc import Mapping
from typing import Any

from orthrus_core.errors import ConfigError
from orthrus_core.models.checkpoint import CONFIG_FILE
from orthrus_core.training.checkpoint import STATE_FILE
from pipelines.config.section import flat_options
from pipelines.config.versions import versions
from pipelines.generate.ledger.ledger import RUN, differences, fingerprint
from pipelines.storage.files import join, put, read_bytes, remove, remove_tree
from pipelines.storage.listing import list_tree
from pipelines.train.config import TrainConfig

MANIFEST = "manifest.json"
JOB = "train"
# Options that change neither the weights nor what is measured, but for rounding.
NOT_RECIPE = (
    "num_threads",
    "compile",
    "tokenizer",  # its hash is
    "backbone",  # of a head: its hash is
    "revision",
    "data.path",  # its fingerprint is
    "data.format",
    "data.check_tokenizer",
    "head.rows_per_chunk",
    "head.loss_chunk_mib",
    "head.checkpoint_layers",
    "head.attention",
    "loop.log_every_s",
    "loop.evaluate_every_s",
    "loop.evaluate_every_steps",
    "loop.save_every_s",
    "loop.save_every_steps",
)
NOT_RECIPE_SECTIONS = ("output", "storage", "scaling")


def recipe(config: TrainConfig, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides the weights, flat: dotted name to value.

    Args:
        hashes: of backbone, tokenizer and data.
    """
    flat = flat_options(config)
    kept = {
        name: value
        for name, value in flat.items()
        if name not in NOT_RECIPE and name.split(".")[0] not in NOT_RECIPE_SECTIONS
    }
    # every worker has a share of the data of its own
    return kept | dict(hashes) | {"scaling.workers": max(1, config.scaling.workers)}


class Output:
    """The place of a run: the model's files, and `_run/` with all that makes them."""

    def __init__(self, url: str) -> None:
        """Args: url is `output.path`, absolute."""
        self.url = url
        self.run_url = join(url, RUN)

    def manifest(self) -> dict[str, Any] | None:
        """The stored manifest, or None where no run has begun.

        Raises:
            ConfigError: something else than a training run is there.
        """
        stored = json.loads(read_bytes(join(self.run_url, MANIFEST)) or b"null")
        if stored is not None and stored.get("job") == JOB:
            return stored
        if stored is not None or self._holds_something():
            raise ConfigError(
                f"output.path {self.url} is not empty and no training output: choose another path"
            )
        return None

    def is_finished(self) -> bool:
        """Whether a model is there, to the last file."""
        state = json.loads(read_bytes(join(self.url, STATE_FILE)) or b"{}")
        return bool(state.get("finished"))

    def begin(self, identity: dict[str, Any], config: TrainConfig, facts: Mapping[str, Any]) -> None:
        """Write the manifest; what was there of another run has gone before.

        Args:
            facts: what else to note, such as counts of rows.
        """
        manifest = {
            "format": 1,
            "job": JOB,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "fingerprint": fingerprint(identity),
            "identity": identity,
            "config": public_config(config),
            "versions": versions(),
            **facts,
        }
        put(join(self.run_url, MANIFEST), json.dumps(manifest, indent=1, default=str).encode())

    def clear(self, *, keep: tuple[str, ...] = ("lock",)) -> None:
        """Remove a run and its model; the file that makes a directory a model goes first."""
        for name in (STATE_FILE, CONFIG_FILE):
            remove(join(self.url, name))
        below = {file.url.removeprefix(f"{self.run_url}/").split("/")[0] for file in list_tree(self.run_url)}
        for name in sorted(below - set(keep)):
            remove_tree(join(self.run_url, name))

    def _holds_something(self) -> bool:
        """Whether there is anything but what a run leaves that dies before its manifest."""
        run = f"{self.run_url}/"
        files = [file.url for file in list_tree(self.url)]
        return any(not url.startswith(run) for url in files)


def check_recipe(stored: Mapping[str, Any], identity: Mapping[str, Any], output: Output) -> None:
    """Refuse to go on with a run of another recipe.

    Raises:
        ConfigError: naming what differs.
    """
    if changed := differences(stored["identity"], identity):
        raise ConfigError(
            f"output.path {output.url} holds a run with another recipe: {'; '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; choose another output.path, or set "
            "output.overwrite=true to replace it"
        )


def public_config(config: TrainConfig) -> dict[str, Any]:
    """The config as it is stored: without the section that may hold credentials."""
    return config.model_dump(mode="json", exclude={"storage"})
