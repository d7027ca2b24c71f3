"""Where the wall time of a job goes that is not the engine's: `make bench-overhead ROWS=20000`.

Repeats the demo's prompts to as many rows as asked for, runs the generate job on them with the shipped model
and a Ray of its own, and prints how the time was spent. Aim: at most 5 % outside the engine at 20,000 rows in
units of 256. Run it on an otherwise idle machine: whatever else runs takes time from all of it.
No test; takes as long as the job does, about a minute for 2,000 rows on 2 cores.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

STARTED_AT = time.perf_counter()
ROOT = Path(__file__).parents[2]
AIM = 0.05


def main() -> int:
    """Run the job and print the split; returns 1 if the aim was missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--unit-rows", type=int, default=256)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as of jobs/generate.py"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orthrus-overhead-") as directory:
        write_prompts(Path(directory) / "prompts", options.rows)
        overrides = [
            f"input.paths={directory}/prompts",
            f"output.path={directory}/out",
            f"run.unit_rows={options.unit_rows}",
            f"run.actors={options.actors}",
            "run.ray_address=local",
            *options.set,
        ]
        outside_share = measure(overrides)
    return int(outside_share > AIM)


def write_prompts(directory: Path, num_rows: int) -> None:
    """The demo's prompts again and again, with ids of their own, in one file with row groups of 256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    demo = pq.read_table(ROOT / "pipelines/demo/prompts").select(["prompt"])
    repeated = pa.concat_tables([demo] * -(-num_rows // demo.num_rows)).slice(0, num_rows)
    table = repeated.append_column("id", pa.array([f"row-{n}" for n in range(num_rows)]))
    directory.mkdir()
    pq.write_table(table, directory / "prompts.parquet", row_group_size=256)


def measure(overrides: list[str]) -> float:
    """Run the job and print where its time went; the share of wall time outside the engines."""
    from pipelines.cluster.session import RaySession
    from pipelines.command.config_file import load_config
    from pipelines.generate.config.job import GenerateConfig

    config = load_config(GenerateConfig, ROOT / "configs/generate/demo.yaml", overrides)
    session = RaySession(config.run)
    session.begin()
    begun_at = time.perf_counter()
    from pipelines.generate.build import run_job
    from pipelines.generate.job.job import prepare

    imported_at = time.perf_counter()
    job = prepare(config)
    prepared_at = time.perf_counter()
    record = record_of(job)
    report = run_job(job, record, session=session)
    before = {"config": begun_at - STARTED_AT, "imports beside Ray's start": imported_at - begun_at}
    before["prepare"] = prepared_at - imported_at
    show(record, report["this_run"], before)
    return float(report["this_run"]["outside_engine_share"])


def record_of(job: Any) -> Any:
    """Progress that also keeps every unit's summary and when it came."""
    from pipelines.generate.watch.progress import Progress

    class Record(Progress):
        def __init__(self) -> None:
            super().__init__(total_rows=job.plan.num_rows, done_rows=0, every_s=10)
            self.units: list[tuple[float, dict[str, Any]]] = []

        def add(self, summary: dict[str, Any]) -> None:
            super().add(summary)
            self.units.append((time.perf_counter(), summary))

    return Record()


def show(record: Any, run: dict[str, Any], before: dict[str, float]) -> None:
    """Print the split of the wall time, and what each actor did."""
    last_at = record.units[-1][0]
    ended_at = time.perf_counter()
    whole_s = ended_at - STARTED_AT
    engines = {summary["actor"]: summary for _, summary in record.units}
    ready_s = max(summary["ready_s"] for summary in engines.values())
    tail_s = ended_at - last_at
    rows = [*before.items(), ("Ray start", run["ray_start_s"])]
    rows.append(("workers, imports, model load", run["wall_s"] - run["ray_start_s"] - ready_s - tail_s))
    rows.append(("(model load of it)", run["model_load_s"]))
    for actor, summary in engines.items():
        busy_s = summary["engine"]["busy_s"]
        rows.append((f"engine busy, {actor}", busy_s))
        rows.append((f"engine idle between, {actor}", summary["ready_s"] - busy_s))
    rows += [("end: last check, report, Ray's end", tail_s), ("wall time of the run", run["wall_s"])]
    print(f"\n{run['rows']} rows, {run['completion_tokens']} tokens, {len(record.units)} units")
    for name, seconds in rows:
        print(f"{name:50} {seconds:9.2f} s {100 * seconds / run['wall_s']:6.1f} %")
    done = Counter(summary["actor"] for _, summary in record.units for _ in range(summary["rows"]))
    print(f"rows by actor: {dict(done)}")
    print(f"outside the engine: {100 * run['outside_engine_share']:.1f} % (aim: {100 * AIM:.0f} %)")
    busy_s = sum(summary["engine"]["busy_s"] for summary in engines.values()) / len(engines)
    print(f"outside the engine, of the process from its first line: {100 * (1 - busy_s / whole_s):.1f} %")
    print(f"idle after loading: {100 * run['idle_when_ready_share']:.2f} %")


if __name__ == "__main__":
    sys.exit(main())
