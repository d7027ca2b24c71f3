"""One driver at a time on an output: a lock file with a heartbeat."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.storage.errors import StorageError
from pipelines.storage.files import absolute, create, is_local, join, put, read_bytes, remove

logger = logging.getLogger(__name__)

BEAT_S = 10.0
STALE_S = 60.0  # without a heartbeat that long, on the clock of the one who looks, its owner is dead
LOOK_S = 2.0
SETTLE_S = 1.0  # after a takeover, for others who took over at the same moment


class RunLock:
    """Holds `_run/lock` while a driver runs; a context manager.

    The file names its owner and counts heartbeats. Whoever finds it held watches whether the count moves, on
    his own clock: clocks of two machines are never compared. An owner on this machine that has died is known
    at once. Losing the lock is not dangerous, only wasteful: units are the same whoever writes them.
    """

    def __init__(
        self, run_url: str, *, beat_s: float = BEAT_S, stale_s: float = STALE_S, settle_s: float = SETTLE_S
    ):
        self._url = join(run_url, "lock")
        self._owner = {"id": uuid.uuid4().hex, **_this_process()}
        self._beats = 0
        self._beat_s, self._stale_s, self._settle_s = beat_s, stale_s, settle_s
        self._is_lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)

    def __enter__(self) -> "RunLock":
        """Take the lock.

        Raises:
            ConfigError: another driver is at work on this output, or the place is not open to us.
        """
        try:
            if not create(self._url, self._content()):
                self._take_over()
            self._thread.start()
            return self
        except (StorageError, OSError) as error:
            raise ConfigError(f"output.path: cannot write {error}") from None
        except KeyboardInterrupt:  # a signal, when the file may be there already
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """Give it back, unless another driver has it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._is_lost and _owner_id(self._read()) == self._owner["id"]:
            remove(self._url)

    def check(self) -> None:
        """Raise OrthrusError if another driver has taken the lock over."""
        if self._is_lost:
            raise OrthrusError(
                f"another driver took {self._url} over, since this one's heartbeat had stopped; it goes on "
                "with this output, and what this one committed stays"
            )

    def _take_over(self) -> None:
        """Wait until the owner is known to be dead or alive; raises ConfigError if it is alive."""
        seen, since = self._read(), time.monotonic()
        _refuse_if_alive_here(self._url, seen)
        if seen is not None and not _has_died_here(seen):
            logger.warning(
                "%s holds %s; watching its heartbeat for up to %.0f s: this run is refused if it lives, and "
                "takes over if it does not",
                _name(seen),
                self._url,
                self._stale_s,
            )
            while time.monotonic() - since < self._stale_s:
                time.sleep(min(LOOK_S, self._stale_s / 4))
                now = self._read()
                if now is None:  # what is left to do was looked up before: it may be done by now
                    raise ConfigError(
                        "output.path: another run was at work there and has just ended; start again"
                    )
                if now != seen:
                    raise _refusal(self._url, now)
        logger.warning("taking over %s from %s, which has died", self._url, _name(seen))
        put(self._url, self._content())
        time.sleep(self._settle_s)
        if _owner_id(self._read()) != self._owner["id"]:
            raise ConfigError(
                f"output.path: another run took {self._url} over at the same moment; leave it to that one"
            )

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            try:
                if _owner_id(self._read()) not in (None, self._owner["id"]):
                    self._is_lost = True
                    return
                self._beats += 1
                put(self._url, self._content())
            except Exception as error:  # storage that fails for a while; the next beat tries again
                logger.warning("heartbeat failed: %s: %s", type(error).__name__, error)

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "beats": self._beats}).encode()

    def _read(self) -> dict[str, Any] | None:
        stored = read_bytes(self._url)
        return None if stored is None else _parse(stored)


def refuse_second_driver(output_path: str) -> None:
    """Say at once what `RunLock` would say after seconds of imports: a driver on this machine is at work.

    In object storage nothing is looked up yet.

    Raises:
        ConfigError: with its name.
    """
    url = join(join(absolute(output_path), "_run"), "lock")
    stored = read_bytes(url) if is_local(url) else None
    _refuse_if_alive_here(url, None if stored is None else _parse(stored))


def _refuse_if_alive_here(url: str, owner: dict[str, Any] | None) -> None:
    if owner is not None and _is_of_here(owner) and not _has_died_here(owner):
        raise _refusal(url, owner)


def _refusal(url: str, owner: dict[str, Any]) -> ConfigError:
    return ConfigError(
        f"output.path: another run is at work there: {_name(owner)} holds {url}; "
        "wait for it, or choose another output.path"
    )


def _parse(stored: bytes) -> dict[str, Any]:
    """A lock's content; of one that is half written or damaged, an owner that nobody knows.

    Where a file system has no links, a lock is empty for a moment; `content` makes what it becomes a change.
    """
    try:
        owner = json.loads(stored)
        return {name: owner[name] for name in ("id", "host", "boot", "pid", "started", "beats")}
    except (ValueError, KeyError, TypeError):
        return {"id": None, "host": "?", "boot": None, "pid": 0, "started": None, "content": stored.hex()}


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _start_of(pid)}


def _boot() -> str | None:
    """What tells this start of this machine from others; None where the system does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else None


def _start_of(pid: int) -> str | None:
    """When a process began, in clock ticks since boot; None if it has ended, or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # Z: killed, and its parent has not looked yet


def _has_died_here(owner: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine, since its last start, and is no more."""
    return _is_of_here(owner) and _start_of(owner["pid"]) != owner["started"]


def _is_of_here(owner: dict[str, Any]) -> bool:
    """Whether the owner runs on this machine, or ran since its last start."""
    here = _this_process()
    return owner["boot"] is not None and (owner["host"], owner["boot"]) == (here["host"], here["boot"])


def _owner_id(content: dict[str, Any] | None) -> str | None:
    return None if content is None else content["id"]


def _name(content: dict[str, Any] | None) -> str:
    return "nobody" if content is None else f"process {content['pid']} on {content['host']}"


def watch_owner(run_url: str, *, watch_s: float) -> str:
    """Whether a driver is at work on an output: alive, dead, none (no lock), or unknown.

    Args:
        watch_s: how long to watch the heartbeat of an owner of whom only that tells, one on another machine.
    """
    url, deadline = join(run_url, "lock"), time.monotonic() + watch_s
    seen = read_bytes(url)
    if seen is None:
        return "none"
    owner = _parse(seen)
    if _is_of_here(owner):
        return "dead" if _has_died_here(owner) else "alive"
    while time.monotonic() < deadline:
        time.sleep(min(LOOK_S, watch_s))
        now = read_bytes(url)
        if now != seen:
            return "none" if now is None else "alive"
    return "dead" if watch_s > BEAT_S else "unknown"
