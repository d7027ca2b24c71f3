"""Listing and atomic writes, on the local file system and on fsspec's memory file system."""

import os
import uuid

import pytest

from orthrus_core.errors import ConfigError
from pipelines.storage import files as storage
from pipelines.storage import listing


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def names(files) -> list[str]:
    return [file.url.rsplit("/", 1)[-1] for file in files]


def test_what_is_put_is_read_back(root):
    storage.put(f"{root}/deep/er/file.txt", b"text")
    assert storage.read_bytes(f"{root}/deep/er/file.txt") == b"text"


def test_an_uploaded_file_is_as_open_as_any_new_one(tmp_path):
    (tmp_path / "source").write_bytes(b"weights")
    (tmp_path / "source").chmod(0o600)  # as safetensors writes them
    storage.upload(str(tmp_path / "source"), f"{tmp_path}/deep/target")
    (tmp_path / "new").touch()
    assert (tmp_path / "deep/target").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert storage.read_bytes(f"{tmp_path}/deep/target") == b"weights"
    assert not (tmp_path / "source").exists()


def test_a_put_replaces_the_old_file(root):
    storage.put(f"{root}/file", b"old and longer")
    storage.put(f"{root}/file", b"new")
    assert storage.read_bytes(f"{root}/file") == b"new"
    assert storage.list_directory(root) == {"file": 3}


def test_a_missing_file_reads_as_none(root):
    assert storage.read_bytes(f"{root}/none") is None


def test_a_missing_directory_is_empty(root):
    assert storage.list_directory(f"{root}/none") == {}


def test_a_directory_lists_data_files_only(root):
    for name in (
        "b.parquet",
        "a.parquet",
        "_SUCCESS",
        ".x.tmp",
        "README.md",
        "_run/c.parquet",
        "sub/d.parquet",
    ):
        storage.put(f"{root}/{name}", b"x")
    assert names(listing.list_inputs(root, (".parquet",))) == ["a.parquet", "b.parquet", "d.parquet"]


def test_a_glob_lists_what_it_matches(root):
    for name in ("a.parquet", "b.txt"):
        storage.put(f"{root}/{name}", b"12")
    files = listing.list_inputs(f"{root}/*.parquet", (".parquet",))
    assert names(files) == ["a.parquet"]
    assert files[0].size == 2


def test_listed_urls_can_be_opened(root):
    storage.put(f"{root}/a.parquet", b"12")
    [file] = listing.list_inputs(root, (".parquet",))
    with storage.open_file(file.url) as handle:
        assert handle.read() == b"12"


def test_nothing_found_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        listing.list_inputs("prompts/*.parquet", (".parquet",))
    assert str(caught.value) == f"input.paths: no file at prompts/*.parquet (looked in {tmp_path})"


def test_an_unknown_protocol_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot open nosuch://x"):
        listing.list_inputs("nosuch://x", (".parquet",))


def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    storage.put(f"{tmp_path}/file", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.put(f"{tmp_path}/file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert storage.read_bytes(f"{tmp_path}/file") == b"old"


def test_sweep_removes_temporaries_of_a_killed_writer(tmp_path):
    (tmp_path / ".part.parquet.123.tmp").write_bytes(b"half")
    storage.put(f"{tmp_path}/part.parquet", b"whole")
    assert storage.sweep(str(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["part.parquet"]


def test_results_of_map_files_keep_the_order():
    assert storage.map_files(lambda x: x * x, range(100)) == [x * x for x in range(100)]
