"""TensorBoard scalars of a run, written on this machine and copied to the run's store at every save."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from pipelines.storage import is_local, join, upload

DIRECTORY = "tensorboard"


class Scalars:
    """Writes event files below the run's directory; a run that goes on adds a file.

    Figures behind the checkpoint that a run goes on from are told to be void, so that no step shows twice.
    """

    def __init__(self, run_url: str, *, first_step: int) -> None:
        """Args: first_step is the first step that this process will report."""
        self._url = join(run_url, DIRECTORY)
        self._is_local = is_local(run_url)
        self._path = Path(self._url) if self._is_local else Path(tempfile.mkdtemp(prefix="orthrus-scalars-"))
        self._writer = SummaryWriter(logdir=str(self._path), purge_step=first_step or None)

    def add(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Write figures as `KIND/NAME`.

        Args:
            kind: "train" or "held_out".
        """
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def copy(self) -> None:
        """Bring all that was written to the run's store."""
        self._writer.flush()
        if self._is_local:
            return
        for file in self._path.iterdir():
            with tempfile.TemporaryDirectory() as directory:
                copied = shutil.copy(file, directory)  # the file itself grows on
                upload(copied, join(self._url, file.name))

    def close(self) -> None:
        """Copy for the last time and end."""
        self._writer.close()
        self.copy()
        if not self._is_local:
            shutil.rmtree(self._path, ignore_errors=True)
