"""What the manifest learns of engines."""

import logging

import pytest

from pipelines.generate.config import GenerateConfig
from pipelines.generate.job import prepare
from pipelines.generate.manifest import ENGINE_FACTS, note_engine

FIRST = dict.fromkeys(ENGINE_FACTS, "same") | {"exactness": "exact", "budgets": (8, 16)}


@pytest.fixture
def job(tree):
    return prepare(GenerateConfig.model_validate(tree))


def test_the_first_engine_stands_in_the_manifest(job):
    manifest = job.manifest()
    note_engine(job, manifest, FIRST)
    assert job.ledger.manifest()["engine"] == FIRST | {"budgets": [8, 16]}


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
