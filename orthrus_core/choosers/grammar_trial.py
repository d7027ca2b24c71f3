"""Compiling a grammar in a process of its own first, which one that is too large ends without harm to others.

The library bounds what a step of a grammar may cost, but not what every schema takes to compile: a large
`multipleOf` takes minutes and gigabytes, in one call that cannot be stopped. So the process that tries
grammars has limits on memory and on the CPU time of each, set by the kernel; when a grammar ends it, the next
one starts another.

This file is also that process's program: it imports nothing of the project.
"""

import contextlib
import json
import signal
import subprocess
import sys
import weakref
from typing import IO

LIMIT_S = 5.0  # CPU time of one grammar
MEMORY_BYTES = 2**29  # beyond what Python and the library take


class GrammarTrialError(Exception):
    """A grammar that costs too much, and which limit it ran into."""


class GrammarTrial:
    """Tries one grammar after the other; starts when the first comes."""

    def __init__(self, *, limit_s: float = LIMIT_S, memory_bytes: int = MEMORY_BYTES):
        """Args: limit_s is the CPU time that a grammar may take."""
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[str] | None = None

    def run(self, text: str) -> None:
        """Compile a grammar in the library's own language; what it says is not the trial's business.

        Raises:
            GrammarTrialError: it takes too long or needs too much memory.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps(text), file=process.stdin, flush=True)
            is_tried = bool(process.stdout.readline())
        except OSError:
            is_tried = False
        if not is_tried:
            raise GrammarTrialError(self._why_it_ended(process))

    def _start(self) -> "subprocess.Popen[str]":
        program = [sys.executable, "-P", __file__]  # -P: this folder's modules must not hide the library's
        command = [*program, str(self._limit_s), str(self._memory_bytes)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._process = process
        weakref.finalize(self, _end, process)
        return process

    def _why_it_ended(self, process: "subprocess.Popen[str]") -> str:
        self._process = None
        _end(process)
        if process.returncode == -signal.SIGPROF:
            return f"takes more than {self._limit_s:g} s to compile"
        if process.returncode == -signal.SIGABRT:  # as the library ends where it gets no memory
            return f"takes more than {self._memory_bytes // 2**20} MiB to compile"
        return f"ends the process that compiles it, with code {process.returncode}"


def _end(process: "subprocess.Popen[str]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not sent yet has no reader
                stream.close()
    process.wait()


def _limit_memory(memory_bytes: int) -> None:
    """Bound the address space; an allocation beyond it ends the process."""
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == -1 else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(grammars: IO[str], limit_s: float, memory_bytes: int) -> None:
    """Compile grammars until there are no more; the kernel ends the process when one costs too much."""
    import llguidance

    tokenizer = llguidance.LLTokenizer("byte")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _limit_memory(memory_bytes)
    for line in grammars:
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        llguidance.LLMatcher(tokenizer, json.loads(line), log_level=0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print("tried", flush=True)


if __name__ == "__main__":
    _serve(sys.stdin, float(sys.argv[1]), int(sys.argv[2]))
