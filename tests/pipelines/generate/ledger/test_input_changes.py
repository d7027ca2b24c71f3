"""The same bytes with another time are the same input; other bytes are not."""

import logging
import os
from pathlib import Path

import pytest

from pipelines.generate.ledger import input_changes
from pipelines.generate.ledger.input_changes import changed_inputs, recognise, tag_contents
from pipelines.storage.file_info import FileInfo
from pipelines.storage.listing import list_inputs


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("one\n")
    return path


def listed(path: Path) -> list[FileInfo]:
    return list_inputs(str(path), ())


def changes(stored, path):
    return changed_inputs(stored, recognise(stored, listed(path)))


def test_the_same_bytes_with_a_new_time_are_no_change(path):
    stored = tag_contents(listed(path))
    os.utime(path, (5.0, 5.0))
    assert changes(stored, path) == ([], [])
    assert recognise(stored, listed(path))[0].mtime == 5.0


def test_other_bytes_of_the_same_size_are_one(path):
    stored = tag_contents(listed(path))
    path.write_text("two\n")
    os.utime(path, (5.0, 5.0))
    assert changes(stored, path) == ([], [f"input {path} has another content"])


def test_a_file_of_another_size_is_not_read_to_know_that(path, monkeypatch):
    stored = tag_contents(listed(path))
    path.write_text("three\n")
    monkeypatch.setattr(input_changes, "content_tag", lambda _: pytest.fail("was read"))
    assert changes(stored, path) == ([f"input {path} has another size"], [])


def test_a_file_of_the_same_time_is_not_read_again(path, monkeypatch):
    stored = tag_contents(listed(path))
    monkeypatch.setattr(input_changes, "content_tag", lambda _: pytest.fail("was read"))
    assert changes(stored, path) == ([], [])
    assert recognise(stored, listed(path)) == tag_contents(stored) == stored


def test_a_run_that_knows_no_content_goes_by_the_time(path):
    stored = listed(path)
    os.utime(path, (5.0, 5.0))
    assert changes(stored, path) == ([], [f"input {path} has another mtime"])


def test_a_file_that_changed_since_it_was_listed_gets_no_tag(path):
    files = listed(path)
    os.utime(path, (5.0, 5.0))
    assert tag_contents(files) == files


def test_inputs_too_large_to_hash_are_left_with_their_times(path, monkeypatch, caplog):
    monkeypatch.setattr(input_changes, "MOST_HASHED", 3)
    with caplog.at_level(logging.INFO):
        assert tag_contents(listed(path)) == listed(path)
    assert "inputs_not_hashed bytes=4" in caplog.text


def test_files_in_a_store_keep_its_own_etag():
    file = FileInfo("s3://b/a.parquet", 1, "e1", 5.0)
    assert tag_contents([file]) == recognise([file], [file]) == [file]
