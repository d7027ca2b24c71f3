"""Our end of the pipe to a peer: start it, ask it, end it."""

import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from orthrus_core.errors import OrthrusError
from orthrus_core.evaluation.speed import Measured, Prompts, System, Work

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[3]
LAST_LINES = 15


class PeerProcess:
    """A peer in a process of its own, at rest between requests; a context manager that ends it.

    Attributes:
        version: of the engine.
    """

    def __init__(
        self,
        name: str,
        *,
        python: Path | str,
        module: str,
        options: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Path,
        timeout_s: float,
    ):
        """Start the process and wait until its model is loaded.

        Args:
            name: for messages.
            python: interpreter of its environment.
            module: server to run.
            options: of the server.
            environment: variables beside those of this process.
            log: file for what it prints.
            timeout_s: longest wait for its start, and for each answer.
        Raises:
            OrthrusError: it ended or did not answer.
        """
        self.name, self._log, self._timeout_s = name, log, timeout_s
        log.parent.mkdir(parents=True, exist_ok=True)
        logger.info("starting peer=%s log=%s", name, log)
        with log.open("w", encoding="utf-8") as printed:
            self._process = subprocess.Popen(
                [str(python), "-m", module, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            )
        try:
            ready = self._read()
        except BaseException:
            self.close()
            raise
        self.version = ready["version"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def system(self, *, in_flight: int, max_new_tokens: int, eos_ids: Sequence[int]) -> System:
        """Return this peer as a system to time; the time is the one that it measures itself."""
        limits = {"in_flight": in_flight, "max_new_tokens": max_new_tokens, "eos_ids": list(eos_ids)}

        def prepare(prompts: Prompts) -> Work:
            def work() -> Measured:
                answer = self._ask({"prompts": [list(prompt) for prompt in prompts], **limits})
                return Measured(answer["outputs"], answer["seconds"])

            return work

        return prepare

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(self._timeout_s, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        in_time = watch.is_alive()
        watch.cancel()
        if not line:
            raise self._failure("ended" if in_time else f"did not answer within {self._timeout_s:g} s")
        return json.loads(line)

    def _failure(self, what: str) -> OrthrusError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return OrthrusError(
            f"{self.name} {what}; its last lines, all of them in {self._log}:\n"
            + "\n".join(lines[-LAST_LINES:])
        )
