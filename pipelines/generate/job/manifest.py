"""The manifest while a run goes on: opened at its start, told of its engines."""

import logging
import time
from typing import Any

from pipelines.config.versions import versions
from pipelines.generate.job.job import Job
from pipelines.generate.ledger.input_changes import changed_inputs, tag_contents
from pipelines.storage.file_info import FileInfo

# Of an engine's report, what does not change while it runs.
ENGINE_FACTS = (
    "mode",
    "exactness",
    "token_budget",
    "budgets",
    "block_size",
    "page_size",
    "attention",
    "digest",
    "linear",
    "compiled",
    "dtype",
    "device",
)
ENGINE_SIZES = ("max_sequences", "max_context", "num_pages")  # a resumed run goes on with the first
ENGINE_COSTS = ("budgets", "draft_s", "verify_s", "draft_cells_s", "verify_cells_s")  # each measures its own

logger = logging.getLogger(__name__)


def open_manifest(job: Job) -> dict[str, Any]:
    """The stored manifest with a note of this resumption, or a new one."""
    stored = None if job.is_new else job.ledger.manifest()
    inputs = tag_contents([shard.file for shard in job.plan.shards])
    now: dict[str, Any] = {"inputs": [file.to_dict() for file in inputs]}
    if stored is None:
        return job.manifest() | now
    _, accepted = changed_inputs([FileInfo(**entry) for entry in stored["inputs"]], inputs)
    if accepted:
        now["accepted_inputs"] = [*stored.get("accepted_inputs", []), *accepted]
    if job.repair is not None:
        return job.repaired_manifest(stored) | now
    changed = _differences(stored["versions"], versions())
    if changed:
        logger.warning("resumed with other versions, texts could differ: %s", changed)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    resumed = [*stored.get("resumed", []), {"at": at, "versions": versions()}]
    return {**stored, **now, "resumed": resumed}


def note_engine(job: Job, manifest: dict[str, Any], report: dict[str, Any]) -> None:
    """Put the engine's constant facts into the manifest, once, and warn of what the operator must know."""
    facts = {name: report.get(name) for name in ENGINE_FACTS}
    stored = manifest["engine"]
    if stored is not None:
        if stored != {name: facts[name] for name in stored if name in facts}:
            _note_other_engine(job, manifest, facts)
        return
    manifest["engine"] = facts
    manifest["engine_sizes"] = {name: report.get(name) for name in ENGINE_SIZES}
    manifest["engine_costs"] = {name: report.get(name) for name in ENGINE_COSTS}
    job.ledger.write_manifest(manifest)
    if facts["exactness"] != "exact":
        logger.warning("exactness=%s: texts may differ from AR decoding on this machine", facts["exactness"])


def _note_other_engine(job: Job, manifest: dict[str, Any], facts: dict[str, Any]) -> None:
    """Keep the facts of an engine that is unlike the run's first, and warn, once for each kind."""
    others = manifest.setdefault("other_engines", [])
    if facts in others:
        return
    others.append(facts)
    job.ledger.write_manifest(manifest)
    logger.warning("engines differ, texts could: %s", _differences(manifest["engine"], facts))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return " ".join(f"{name}={before.get(name)}->{now.get(name)}" for name in names)
