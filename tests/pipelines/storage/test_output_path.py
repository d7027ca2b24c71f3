"""Outputs that cannot be written, or cannot be told from the input."""

import os
from pathlib import Path

import pytest

from orthrus_core.errors import ConfigError
from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.output_path import check_output


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working directory with `in/a.parquet`, `in[1]/`, a file, and links."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.parquet", "in[1]/a.parquet", "file"):
        storage.put(f"{tmp_path}/{name}", b"x")
    os.symlink("in", "same")
    os.symlink("nowhere", "broken")
    return tmp_path


@pytest.mark.parametrize(
    "path", ["file", "file/out", "file/deep/out", "broken/out", "/proc/out", "/sys/out", "x" * 300]
)
def test_an_output_that_cannot_be_written_is_refused(work, path):
    with pytest.raises(ConfigError, match="output.path: cannot write below /"):
        check_output(path)


@pytest.mark.parametrize("name", ["_run", "data", "dropped"])
def test_a_file_where_a_directory_of_the_output_is_to_be_is_refused(work, name):
    storage.put(f"{work}/out/{name}", b"x")
    with pytest.raises(ConfigError, match=f"cannot write below {work}/out/{name}: Not a directory"):
        check_output("out")


def test_an_output_that_can_be_made_is_accepted_and_not_made(work):
    before = sorted(work.rglob("*"))
    check_output("new/deep/out", ["in", "in/*.parquet", "s3://bucket/in"])
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    ("pattern", "output"),
    [
        ("in", "in"),
        ("in/", "in/deep/out"),
        (".", "out"),
        ("same", "in/out"),
        ("in", "same/out"),
        ("in[1]", "in[1]/out"),
        ("in/**/*.parquet", "in/out"),
        ("in/**", "in/out"),
        ("*/*/*.parquet", "out"),
        ("out*/data/*.parquet", "out7"),
    ],
)
def test_an_output_that_would_be_read_as_input_is_refused(work, pattern, output):
    with pytest.raises(
        ConfigError, match=r"output.path .* lies in the input .*choose an output.path outside"
    ):
        check_output(output, ["elsewhere", pattern])


@pytest.mark.parametrize(
    ("pattern", "output"), [("in/a.parquet", "in"), ("in/*.parquet", "in"), ("in/deep", "."), ("same", "..")]
)
def test_an_input_that_lies_in_the_output_is_refused(work, pattern, output):
    with pytest.raises(ConfigError, match=r"input .* lies in output.path .*choose an output.path apart"):
        check_output(output, [pattern])


@pytest.mark.parametrize(
    ("pattern", "output"),
    [
        ("in", "out"),
        ("in", "in2"),
        ("in", "in/_out"),
        ("in", "in[1]"),
        ("in/*.parquet", "in/out"),
        ("in/a.parquet", "in/out"),
        ("s3://bucket/in", "in"),
    ],
)
def test_an_output_apart_from_the_input_is_accepted(work, pattern, output):
    check_output(output, [pattern])


def test_outputs_in_a_bucket_are_told_from_inputs_in_it(s3):
    use_storage(StorageConfig(**s3.storage()))
    bucket = s3.new_bucket()
    storage.put(f"{bucket}/in/a.parquet", b"x")
    for pattern in ("in", "in/", "", "in/**/*.parquet"):
        with pytest.raises(ConfigError, match="lies in the input"):
            check_output(f"{bucket}/in/out", [f"{bucket}/{pattern}"])
    with pytest.raises(ConfigError, match="lies in output.path"):
        check_output(f"{bucket}/in", [f"{bucket}/in/a.parquet"])
    check_output(f"{bucket}/out", [f"{bucket}/in", f"{bucket}/in/*.parquet", str(Path("in"))])
