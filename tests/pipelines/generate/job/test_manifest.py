"""What the manifest learns of engines."""

import logging
import os

import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.job.manifest import ENGINE_FACTS, note_engine, open_manifest
from tests.pipelines.conftest import job_of

FIRST = dict.fromkeys(ENGINE_FACTS, "same") | {"exactness": "exact", "budgets": (8, 16)}


@pytest.fixture
def job(tree):
    return job_of(tree)


def test_the_first_engine_stands_in_the_manifest(job):
    manifest = job.manifest()
    note_engine(job, manifest, FIRST)
    assert job.ledger.manifest()["engine"] == FIRST | {"budgets": [8, 16]}


def test_the_sizes_of_the_first_engine_stand_in_the_manifest(job):
    sizes = {"max_sequences": 32, "max_context": 256, "num_pages": 513}
    manifest = job.manifest()
    note_engine(job, manifest, FIRST | sizes)
    note_engine(job, manifest, FIRST | sizes | {"num_pages": 400})
    assert job.ledger.manifest()["engine_sizes"] == sizes


def begin(job) -> dict:
    manifest = open_manifest(job)
    job.ledger.start(job.plan, manifest)
    return manifest


def test_a_run_goes_on_with_inputs_that_were_copied_and_knows_their_new_times(job, tree, prompts_dir):
    before = begin(job)["inputs"]
    os.utime(prompts_dir / "a.parquet", (5.0, 5.0))
    again = open_manifest(job_of(tree))
    assert again["inputs"][0] == before[0] | {"mtime": 5.0}
    assert again["inputs"][1:] == before[1:]
    assert "accepted_inputs" not in again


def test_inputs_that_were_accepted_are_named_and_known_from_then_on(job, tree, prompts_dir):
    begin(job)
    path = prompts_dir / "a.parquet"
    path.write_bytes(path.read_bytes().replace(b"row-0", b"row-x"))
    os.utime(path, (5.0, 5.0))
    with pytest.raises(ConfigError, match=f"input {path} has another content; .*input.on_changed: accept"):
        job_of(tree)
    tree["input"]["on_changed"] = "accept"
    accepted = begin(job_of(tree))
    assert accepted["accepted_inputs"] == [f"input {path} has another content"]
    tree["input"]["on_changed"] = "fail"
    assert job_of(tree).plan.num_rows == 17


def test_engines_that_differ_are_warned_of_once_for_each_kind_and_kept(job, caplog):
    manifest = job.manifest()
    note_engine(job, manifest, FIRST)
    with caplog.at_level(logging.WARNING):
        for attention in ("native", "tiled", "native", "native", "tiled"):
            note_engine(job, manifest, FIRST | {"attention": attention})
    assert [record.message for record in caplog.records] == [
        "engines differ, texts could: attention=same->native",
        "engines differ, texts could: attention=same->tiled",
    ]
    stored = job.ledger.manifest()["other_engines"]
    assert [facts["attention"] for facts in stored] == ["native", "tiled"]
