"""The driver's log, kept with the output: `_run/logs/driver-TIME-PID.log`, wherever the output is."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Self

from orthrus_core.errors import OrthrusError
from pipelines.command.job import LOG_FORMAT
from pipelines.storage.config import redact
from pipelines.storage.files import join, list_directory, put, remove

LOGS = "logs"
STORE_S = 60.0
FIRST_CHARS, LAST_CHARS = 2**18, 3 * 2**18  # of a file; what was logged in between is left out
LONGEST = 2**14  # of one record
MOST_FILES = 20  # one for each start of the job

logger = logging.getLogger(__name__)


class RunLog(logging.Handler):
    """Collects what this process logs, and stores it once the output is its own; a context manager."""

    def __init__(self, *, store_s: float = STORE_S):
        """Args: store_s are seconds between two stores."""
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter(LOG_FORMAT))
        self._store_s = store_s
        self._first: list[str] = []
        self._last: deque[str] = deque()
        self._first_chars = self._last_chars = self._num_left_out = 0
        self._stored = ""

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record: the first ones of a run and the last ones."""
        line = self.format(record)[:LONGEST] + "\n"
        if not self._last and self._first_chars + len(line) <= FIRST_CHARS:
            self._first.append(line)
            self._first_chars += len(line)
            return
        self._last.append(line)
        self._last_chars += len(line)
        while self._last_chars > LAST_CHARS:
            self._last_chars -= len(self._last.popleft())
            self._num_left_out += 1

    def text(self) -> str:
        """Everything that is kept, without credentials."""
        assert self.lock is not None
        with self.lock:
            gap = [f"... {self._num_left_out} records are left out here ...\n"] if self._num_left_out else []
            return redact("".join([*self._first, *gap, *self._last]))

    @contextlib.contextmanager
    def kept(self, run_url: str) -> Iterator[None]:
        """Store the log every minute and at the end, with the error that ended the run, if one did.

        Args:
            run_url: the output's `_run`, which is this driver's.
        """
        directory = join(run_url, LOGS)
        name = f"driver-{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"
        stop = threading.Event()
        thread = threading.Thread(
            target=self._store_often, args=(directory, name, stop), name="run-log", daemon=True
        )
        with self:
            self._note(logging.INFO, f"driver host={socket.gethostname()} pid={os.getpid()}")
            thread.start()
            try:
                yield
            except BaseException as error:
                is_ours = isinstance(error, OrthrusError | KeyboardInterrupt)
                self._note(logging.ERROR, f"{type(error).__name__}: {error}", None if is_ours else error)
                raise
            finally:
                stop.set()
                thread.join()
                self._store(directory, name)

    def _note(self, level: int, text: str, error: BaseException | None = None) -> None:
        """Add a record that is for the file alone."""
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        record = {"levelno": level, "levelname": logging.getLevelName(level), "msg": text}
        self.handle(logging.makeLogRecord({**record, "exc_info": exc_info}))

    def _store_often(self, directory: str, name: str, stop: threading.Event) -> None:
        while not stop.wait(self._store_s):
            self._store(directory, name)

    def _store(self, directory: str, name: str) -> None:
        """Write the file, if there is something new, and remove the oldest; a log must not cost a run."""
        text = self.text()
        if text == self._stored:
            return
        try:
            put(join(directory, name), text.encode(errors="replace"))
            self._stored = text
            for old in sorted(list_directory(directory))[:-MOST_FILES]:
                remove(join(directory, old))
        except Exception as error:  # storage that fails for a while; the next store tries again
            logger.warning("log not stored in %s: %s: %s", directory, type(error).__name__, error)
