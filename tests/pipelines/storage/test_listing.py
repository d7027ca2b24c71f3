"""Which files a path, a glob or a directory names: links, marks in names, hidden files, endings."""

import logging
import os
import uuid

import pytest

from orthrus_core.errors import ConfigError
from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.listing import list_inputs, list_tree

PARQUET = (".parquet",)


@pytest.fixture(params=["local", "memory", "s3"])
def root(request, tmp_path) -> str:
    """A directory in each kind of store."""
    if request.param == "s3":
        server = request.getfixturevalue("s3")
        use_storage(StorageConfig(**server.storage()))
        return f"{server.new_bucket()}/root"
    return f"{tmp_path}/root" if request.param == "local" else f"memory:///{uuid.uuid4().hex}"


def write(root, *names) -> None:
    for name in names:
        storage.put(f"{root}/{name}", name.encode())


def names(root, pattern, endings=PARQUET) -> list[str]:
    """What a pattern below the root names, relative to it."""
    found = list_inputs(storage.join(str(root), pattern) if pattern else str(root), endings)
    return [file.url.removeprefix(f"{root}/") for file in found]


def test_a_name_that_exists_as_written_is_that_file(root):
    write(root, "a[1].parquet", "a1.parquet", "b*.parquet", "bc.parquet")
    assert names(root, "a[1].parquet") == ["a[1].parquet"]
    assert names(root, "b*.parquet") == ["b*.parquet"]
    assert names(root, "a[0-9].parquet") == ["a1.parquet"]


def test_marks_in_a_directory_that_exists_are_part_of_its_name(root):
    write(root, "in[1]/a.parquet", "in1/b.parquet", "in[1]/deep/c.parquet")
    assert names(root, "in[1]") == ["in[1]/a.parquet", "in[1]/deep/c.parquet"]
    assert names(root, "in[1]/*.parquet") == ["in[1]/a.parquet"]
    assert names(root, "in[0-9]/*.parquet") == ["in1/b.parquet"]


def test_a_glob_leaves_out_hidden_and_temporary_files_and_says_so(root, caplog):
    write(root, "a.parquet", ".b.parquet", "_c.parquet", "_temporary/0/d.parquet", "deep/e.parquet")
    with caplog.at_level(logging.WARNING):
        assert names(root, "*.parquet") == ["a.parquet"]
    assert "files=2: " in caplog.text
    assert "_c.parquet" in caplog.text
    assert names(root, "**/*.parquet") == ["a.parquet", "deep/e.parquet"]


def test_a_glob_that_writes_the_mark_of_hidden_files_takes_them(root):
    write(root, "a.parquet", ".b.parquet", "_c.parquet", "_temporary/0/d.parquet")
    assert names(root, "_*.parquet") == ["_c.parquet"]
    assert names(root, ".b*") == [".b.parquet"]
    assert names(root, "_temporary/*/*.parquet") == ["_temporary/0/d.parquet"]


def test_a_hidden_directory_that_is_named_is_read(root):
    write(root, ".cache/_x/a.parquet")
    assert names(root, ".cache/_x") == names(root, ".cache/_x/*") == [".cache/_x/a.parquet"]


def test_endings_count_in_capitals_too(root):
    write(root, "a.PARQUET", "b.Parquet")
    assert names(root, "") == ["a.PARQUET", "b.Parquet"]


def test_what_a_directory_leaves_out_is_counted_and_named(root, caplog):
    write(root, "a.parquet", "b.parquet.gz", "c.csv", "_SUCCESS", ".d.crc", "_e.parquet")
    with caplog.at_level(logging.WARNING):
        assert names(root, "") == ["a.parquet"]
    [line] = [record.message for record in caplog.records if "inputs_left_out" in record.message]
    assert "files=3: " in line
    assert [name in line for name in ("b.parquet.gz", "c.csv", "_e.parquet", "_SUCCESS")] == [
        *(True, True, True),
        False,
    ]


def test_a_directory_that_only_a_glob_names_is_left_out_and_named(root, caplog):
    write(root, "in/a.parquet", "in/date=1/b.parquet")
    with caplog.at_level(logging.WARNING):
        assert names(root, "in/*") == ["in/a.parquet"]
    assert "date=1" in caplog.text


def test_where_all_is_left_out_the_error_names_it(root):
    write(root, "a.csv", "b.txt")
    with pytest.raises(ConfigError, match=r"no file at .*; left out: .*a\.csv, .*b\.txt"):
        list_inputs(root, PARQUET)


def test_links_to_files_and_directories_are_followed_everywhere(tmp_path):
    write(tmp_path, "blobs/1", "blobs/more/c.parquet", "in/b.parquet")
    os.symlink(tmp_path / "blobs/1", tmp_path / "in/a.parquet")
    os.symlink("../blobs/more", tmp_path / "in/deep")
    os.symlink("in", tmp_path / "same")
    below = ["a.parquet", "b.parquet", "deep/c.parquet"]
    assert names(tmp_path, "in") == [f"in/{name}" for name in below]
    assert names(tmp_path, "same") == [f"same/{name}" for name in below]
    assert names(tmp_path, "in/*.parquet") == ["in/a.parquet", "in/b.parquet"]
    assert names(tmp_path, "in/*/*.parquet") == ["in/deep/c.parquet"]
    assert [file.url for file in list_tree(str(tmp_path / "in"))] == [f"{tmp_path}/in/{n}" for n in below]


def test_a_link_has_size_and_time_of_what_it_leads_to(tmp_path):
    write(tmp_path, "blob")
    os.utime(tmp_path / "blob", (5.0, 5.0))
    os.symlink("blob", tmp_path / "a.parquet")
    for pattern in ("a.parquet", "*.parquet"):
        [file] = list_inputs(f"{tmp_path}/{pattern}", PARQUET)
        assert (file.size, file.mtime) == (4, 5.0)


def test_a_link_that_leads_nowhere_is_listed_so_that_it_is_named_as_bad(tmp_path):
    write(tmp_path, "b.parquet")
    os.symlink("gone", tmp_path / "a.parquet")
    assert names(tmp_path, "") == names(tmp_path, "*.parquet") == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("links", [{"in/up": "."}, {"in/up": ".."}, {"in/x": "../on", "on/y": "../in"}])
def test_links_that_lead_in_a_circle_are_refused(tmp_path, links):
    write(tmp_path, "in/a.parquet", "on/b.parquet")
    for link, target in links.items():
        os.symlink(target, tmp_path / link)
    with pytest.raises(ConfigError, match=r"input.paths: cannot list .*: it is a link back to .*remove"):
        list_inputs(f"{tmp_path}/in", PARQUET)
    assert names(tmp_path, "in/*.parquet") == ["in/a.parquet"]


def test_a_directory_that_is_closed_to_us_is_not_left_out_in_silence(tmp_path, monkeypatch):
    write(tmp_path, "a.parquet", "closed/b.parquet")
    real = os.listdir

    def listdir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(ConfigError, match="cannot list .*/closed: Permission denied"):
        list_inputs(str(tmp_path), PARQUET)
