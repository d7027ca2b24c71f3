"""TensorBoard scalars of a run, written on this machine and copied to the run's store at every save."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from pipelines.storage.files import is_local, join, upload

DIRECTORY = "tensorboard"


class Scalars:
    """Writes an event file below the run's directory; a run that goes on adds another.

    Figures behind the checkpoint that a run goes on from are told to be void, so that no step shows twice.
    tensorboardX's own SummaryWriter hands events to a thread, so that a copy at a save would lack the last.
    """

    def __init__(self, run_url: str, *, first_step: int) -> None:
        """Args: first_step is the first step that this process will report."""
        self._url = join(run_url, DIRECTORY)
        self._is_local = is_local(run_url)
        self._path = Path(self._url) if self._is_local else Path(tempfile.mkdtemp(prefix="orthrus-scalars-"))
        self._path.mkdir(parents=True, exist_ok=True)
        # files are read in the order of their names, which begin with the second
        suffix = f".{first_step:08}.{os.getpid()}"
        self._writer = EventsWriter(str(self._path / "events"), suffix)
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Write figures as `KIND/NAME`.

        Args:
            kind: "train" or "held_out".
        """
        for name, value in figures.items():
            summary = scalar(f"{kind}/{name}", value)
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def copy(self) -> None:
        """Bring all that was written to the run's store."""
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
