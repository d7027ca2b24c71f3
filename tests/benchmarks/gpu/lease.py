"""Everything worth knowing of a card in nine minutes: `python -m tests.benchmarks.gpu.lease [--quick]`.

Every part runs in a process of its own under a limit of its own, so that one that hangs or breaks the device
costs its own time alone. What each prints goes to a file as it comes; the table of parts is written after
every part, and with --pack an archive of it all: a machine that is lent may give few files back, and be gone
before another command. Needs torch, transformers, triton and pydantic; pytest where it is there. Exit codes:
0 every part reached its targets, 1 not all, 2 a mistake on the command line.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}  # as in jobs: no split-K
SECTIONS = "tests.benchmarks.gpu"
TESTS = (  # all that need a device, by name: others import what a bare machine lacks
    "compilation/test_graphs.py",
    "engine/test_flight.py",
    "engine/test_runner_cuda.py",
    "engine/test_waiting.py",
    "models/test_head.py",
    "training/test_flex.py",
)
PYTEST = ("-m", "pytest", "-v", "--tb=short", "-m", "gpu", *(f"tests/orthrus_core/{name}" for name in TESTS))
OWN_SHARE = 0.8  # of its limit after which a part starts no further line by itself
LAST_WORDS_S = 3.0  # a part that is interrupted may say where it was
FAILED, TIMED_OUT, SKIPPED = "failed", "over its limit", "skipped"


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        name: also of its folder.
        limit_s: it is ended after that many seconds.
        quick_s: the same in a quick run; 0: left out there.
        arguments: of the Python interpreter, its folder appended.
        environment: beside that of this process.
        needs: a module without which it is left out.
    """

    name: str
    limit_s: int
    quick_s: int
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None


def sections(names: str, *options: str) -> tuple[str, ...]:
    """Return the arguments that run sections of the benchmark."""
    return ("-m", SECTIONS, "--sections", names, *options)


PARTS = (
    Part("versions", 30, 20, sections("versions,bandwidth")),  # the first import of torch is a slow one
    Part("tests", 60, 0, PYTEST, needs="pytest"),
    Part("products", 35, 25, sections("products", "--shape", "8b")),
    Part("products-workspace", 35, 0, sections("products", "--shape", "8b"), WORKSPACE),
    Part("ladder", 60, 40, sections("ladder", "--shape", "1.7b", "--no-compiled")),
    Part("ladder-compiled", 120, 0, sections("ladder", "--shape", "1.7b")),
    Part("trajectories", 60, 40, sections("trajectories", "--shape", "1.7b", "--no-compiled")),
    Part("kernels", 40, 0, sections("kernels", "--shape", "8b")),
    Part("decode", 100, 55, sections("step,decode", "--shape", "8b", "--no-compiled")),
)


@dataclass
class Outcome:
    """What became of a part."""

    part: str
    seconds: float
    result: str

    @property
    def is_fine(self) -> bool:
        """Whether it reached its targets, or could not run here."""
        return self.result in ("passed", SKIPPED)


def run_part(part: Part, limit_s: float, directory: Path, options: Sequence[str]) -> Outcome:
    """Run one part until it ends or its limit does; its output goes to a file."""
    if part.needs is not None and importlib.util.find_spec(part.needs) is None:
        return Outcome(part.name, 0.0, SKIPPED)
    arguments = [*part.arguments]
    if SECTIONS in arguments:
        arguments += [*options, "--budget-s", str(OWN_SHARE * limit_s), "--out", str(directory)]
    directory.mkdir(parents=True, exist_ok=True)
    started_at = time.monotonic()
    with open(directory / "output.txt", "w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | part.environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=limit_s)
            result = "passed" if code == 0 else f"{FAILED}, exit code {code}"
        except subprocess.TimeoutExpired:
            _end(process)
            result = TIMED_OUT
    return Outcome(part.name, time.monotonic() - started_at, result)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LAST_WORDS_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pack(directory: Path, archive: Path) -> None:
    """Put a directory into an archive, whole or not at all."""
    partial = archive.with_name(f".{archive.name}")
    with tarfile.open(partial, "w:gz") as packed:
        packed.add(directory, directory.name)
    os.replace(partial, archive)


def write_summary(outcomes: Sequence[Outcome], out: Path) -> str:
    """Write and return the table of parts and, behind it, the tables of each."""
    lines = ["| part | seconds | result |", "|---|---|---|"]
    lines += [f"| {one.part} | {one.seconds:.0f} | {one.result} |" for one in outcomes]
    tables = [path.read_text() for one in outcomes if (path := out / one.part / "gpu.md").exists()]
    (out / "lease.md").write_text("\n".join([*lines, "", *tables]))
    (out / "lease.json").write_text(json.dumps([vars(one) for one in outcomes], indent=2))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run all parts in order; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three minutes")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="PART,PART", help="these alone")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bench-gpu"), help="directory of the results"
    )
    parser.add_argument("--pack", type=Path, metavar="FILE.tgz", help="archive of that directory")
    options, others = parser.parse_known_args(arguments)
    names = [part.name for part in PARTS]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    outcomes: list[Outcome] = []
    for part in PARTS:
        limit_s = part.quick_s if options.quick else part.limit_s
        if not limit_s or (options.only and part.name not in options.only):
            continue
        outcomes.append(run_part(part, limit_s, options.out / part.name, others))
        print(f"{part.name}: {outcomes[-1].result}, {outcomes[-1].seconds:.0f} s", flush=True)
        summary = write_summary(outcomes, options.out)
        if options.pack:
            pack(options.out, options.pack)
    print(summary, f"\ntables in {options.out / 'lease.md'}")
    return int(not all(one.is_fine for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
