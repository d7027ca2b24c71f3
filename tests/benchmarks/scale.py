"""Millions of rows through the pipeline without a model: time and driver memory of each phase.

    python tests/benchmarks/scale.py                     # 5,000 shards, 5,000,000 rows, 1,000 units run
    python tests/benchmarks/scale.py --run-units all     # every unit goes through Ray

The engine is a stub, `tests.fakes.FakeEngine`: it answers each prompt with a few fixed tokens. Everything
else is the real pipeline: listing, footers, plan, manifest, lock, Ray Data, rendering, unit files, resume,
final check. Shards are hard links to one Parquet file. Unless every unit is run, the outputs that the later
phases need are hard links to a unit that was: `resume` then plans with half of the units done, `finish` with
all. Each phase is a process of its own, so that its peak memory is its own. A run that was stopped goes on
where it was with the same command; `--fresh` starts again.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PHASES = ("plan", "run", "resume", "finish")


def main() -> int:
    """Run every phase in a process of its own and print its figures."""
    options = _options()
    if options.phase is not None:
        print(json.dumps(_measured(lambda: globals()[f"{options.phase}_phase"](options))))
        return 0
    if options.fresh:
        shutil.rmtree(options.directory, ignore_errors=True)
    make_shards(options)
    print(f"{options.rows} rows in {options.shards} shards, units of at most {options.unit_rows} rows")
    for phase in PHASES:
        figures = _in_own_process(phase)
        print("  ".join([f"{phase:8}", *(f"{name}={value}" for name, value in figures.items())]), flush=True)
    return 0


def make_shards(options: argparse.Namespace) -> None:
    """Write one shard of short prompts, and link the others to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = options.directory / "prompts"
    if prompts.is_dir() and len(os.listdir(prompts)) == options.shards:
        return
    prompts.mkdir(parents=True, exist_ok=True)
    rows = options.rows // options.shards
    first = prompts / "shard-00000.parquet"
    pq.write_table(pa.table({"prompt": [f"Add {n} and {2 * n}." for n in range(rows)]}), first)
    for number in range(1, options.shards):
        os.link(first, prompts / f"shard-{number:05}.parquet")


def plan_phase(options: argparse.Namespace) -> dict[str, Any]:
    """List and look at all shards, cut units, store plan and manifest."""
    job = _job(options)
    job.ledger.start(job.plan, job.ledger.manifest() or job.manifest())
    sizes = {
        name: (options.directory / "out/_run" / name).stat().st_size
        for name in ("plan.json", "manifest.json")
    }
    return {"units": len(job.plan.units), **{f"{name}_kb": size // 1024 for name, size in sizes.items()}}


def run_phase(options: argparse.Namespace) -> dict[str, Any]:
    """Send units through Ray with the stub engine; driver memory by units done."""
    import ray

    import tests.fakes
    from pipelines.cluster.session import RaySession
    from pipelines.generate.build import run_job
    from pipelines.generate.watch.progress import Progress

    job = _job(options)
    if options.run_units != "all":
        units = job.units[: int(options.run_units)]
        plan = dataclasses.replace(job.plan, units=units)
        job = dataclasses.replace(
            job, plan=plan, units=units, ledger=_ledger_of_part(job.ledger.url, job.plan)
        )
    ray.cloudpickle.register_pickle_by_value(tests.fakes)
    curve = _Curve(Progress(total_rows=job.plan.num_rows, done_rows=0, every_s=30), len(job.units))
    with contextlib.closing(RaySession(job.config.run)) as session, session:
        run_job(job, curve, tests.fakes.fake_engine)
    return {"units": len(job.units), **curve.figures()}


def resume_phase(options: argparse.Namespace) -> dict[str, Any]:
    """Plan what is left with at least half of the units done."""
    if options.run_units != "all":
        _link_outputs(options, share=0.5)
    job = _job(options)
    return {"units_left": len(job.units)}


def finish_phase(options: argparse.Namespace) -> dict[str, Any]:
    """Check that rows out = rows in over all files, and write the report."""
    from pipelines.generate.build import run_job
    from pipelines.generate.watch.progress import Progress

    if options.run_units != "all":
        _link_outputs(options, share=1.0)
    job = _job(options)
    started_at = time.perf_counter()
    (options.directory / "out/_run/_SUCCESS").unlink(missing_ok=True)
    report = run_job(job, Progress(total_rows=job.plan.num_rows, done_rows=0, every_s=60))
    return {"rows": report["rows"], "check_s": round(time.perf_counter() - started_at, 1)}


class _Curve:
    """A progress that also notes the driver's memory as units are done."""

    def __init__(self, progress: Any, total: int):
        self._progress, self._every = progress, max(1, total // 10)
        self._units, self._points = 0, []
        self._started_at = time.perf_counter()

    def add(self, summary: dict[str, Any]) -> None:
        self._progress.add(summary)
        self._units += 1
        if self._units % self._every == 0 or self._units == 1:
            self._points.append((self._units, round(time.perf_counter() - self._started_at), _rss_mib()))

    def figures(self) -> dict[str, Any]:
        """Memory by units done, and units per second after the start."""
        (first, begun_s, rss), (last, ended_s, rss_end) = self._points[0], self._points[-1]
        growth = 1024 * (rss_end - rss) / max(1, last - first)
        return {
            "rss_mib_by_units_s": " ".join(f"{units}@{s}s:{rss}" for units, s, rss in self._points),
            "kib_per_unit": round(growth, 1),
            "units_per_s": round((last - first) / max(1, ended_s - begun_s), 1),
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._progress, name)

    def __enter__(self) -> "_Curve":
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)


def _ledger_of_part(url: str, whole: Any) -> Any:
    """A ledger that leaves the whole plan stored while a part of it is run."""
    from pipelines.generate.ledger.ledger import Ledger

    class PartLedger(Ledger):
        def start(self, plan: Any, manifest: Any) -> None:
            super().start(whole, manifest)

        def finish(self, report: Any, card: str) -> None:
            """Not finished: a part only."""

    return PartLedger(url)


def _link_outputs(options: argparse.Namespace, *, share: float) -> None:
    """Give the first units of the plan an output: a link to one that has as many rows."""
    from pipelines.read.units import Plan

    out = options.directory / "out"
    plan = Plan.from_json((out / "_run/plan.json").read_bytes())
    data = out / "data"
    examples: dict[int, Path] = {}
    for unit in plan.units:
        if (data / unit.file_name).exists():
            examples.setdefault(unit.num_rows, data / unit.file_name)
    for unit in plan.units[: int(len(plan.units) * share)]:
        if not (data / unit.file_name).exists():
            os.link(examples[unit.num_rows], data / unit.file_name)


def _job(options: argparse.Namespace) -> Any:
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.generate.job.job import prepare

    tree = {
        "input": {"paths": [f"{options.directory}/prompts/*.parquet"], "prompt": {"column": "prompt"}},
        "model": {"path": str(ROOT / "pipelines/demo/model"), "dtype": "float32", "device": "cpu"},
        "decode": {"max_context": 256, "max_sequences": 64},
        "sampling": {"max_new_tokens": 8},
        "output": {"path": f"{options.directory}/out"},
        "run": {"unit_rows": options.unit_rows, "actors": options.actors, "ray_address": "local"},
    }
    return prepare(GenerateConfig.model_validate(tree))


def _measured(phase: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    started_at = time.perf_counter()
    figures = phase()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"wall_s": round(time.perf_counter() - started_at, 1), "peak_rss_mib": peak, **figures}


def _in_own_process(phase: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--phase", phase]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, check=True)
    return json.loads(done.stdout.decode().strip().split("\n")[-1])


def _rss_mib() -> int:
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * resource.getpagesize() // 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--directory", type=Path, default=ROOT / "build/scale", help="where files go")
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--unit-rows", type=int, default=256)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--run-units", default="1000", help="units that go through Ray, or all")
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier run left")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
