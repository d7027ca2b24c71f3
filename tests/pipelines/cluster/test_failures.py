"""Notes of dying actors."""

import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.cluster.failures import FailureNotes, explain_failure
from pipelines.storage.files import put


@pytest.fixture
def notes(tmp_path):
    return FailureNotes(f"{tmp_path}/failures", f"{tmp_path}/data")


def test_the_last_reason_is_the_last_line_of_the_newest_engine_note(notes):
    notes.write("engine", "Traceback\n  first\nValueError: old\n")
    notes.write("engine", "Traceback\nRuntimeError: new\n\n")
    notes.write("restart", "an actor was started again\n")
    assert notes.last_reason() == "RuntimeError: new"


def test_without_notes_there_is_no_reason(notes):
    assert notes.last_reason() is None


def test_restarts_in_a_row_are_bounded_and_the_reason_is_told(notes):
    notes.write("engine", "RuntimeError: CUDA\n")
    notes.check_restarts(2)
    notes.check_restarts(2)
    with pytest.raises(
        OrthrusError, match="actors died 3 times without finishing a unit: RuntimeError: CUDA"
    ):
        notes.check_restarts(2)


def test_a_finished_unit_between_restarts_starts_the_count_again(notes):
    for number in range(5):
        notes.check_restarts(1)
        put(f"{notes.data_url}/part-{number}", b"x")


def test_a_death_without_a_note_is_said_to_come_from_outside(notes):
    with pytest.raises(OrthrusError, match="killed from outside"):
        notes.check_restarts(0)


def test_a_config_error_inside_a_traceback_from_another_process_is_found(notes):
    text = 'ray::Worker() (pid=1)\n  File "x.py"\northrus_core.errors.CheckpointError: no head in model\n'
    fault = explain_failure(RuntimeError(text), notes)
    assert (type(fault), str(fault)) == (ConfigError, "no head in model")


def test_another_failure_is_explained_by_what_the_actor_wrote_down(notes):
    notes.write("engine", "RuntimeError: CUDA error\n")
    fault = explain_failure(RuntimeError("The actor died unexpectedly\nsee the logs"), notes)
    assert not isinstance(fault, ConfigError)
    assert str(fault).startswith("RuntimeError: CUDA error; finished units are kept")


RAY_TEXT = """\x1b[36mray::MapBatches(commit_unit)()\x1b[39m (pid=1, ip=127.0.0.1)
  File "sink.py", line 9, in commit_unit
    put(url, data)
{raised}

The above exception was the direct cause of the following exception:

ray::MapBatches(commit_unit)() (pid=1, ip=127.0.0.1)
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 4/4 attempts (total backoff 9.0s).
To change retry attempts, configure `ray.data.DataContext.get_current()` if you believe this to be transient.
"""


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (
            "OSError: [Errno 28] No space left on device: '/x.tmp'",
            "OSError: [Errno 28] No space left on device",
        ),
        ("botocore.exceptions.ClientError: Access Denied", "ClientError: Access Denied"),
        (
            "orthrus_core.errors.EngineError: every sequence of a step got NaN",
            "every sequence of a step got NaN",
        ),
        ("pyarrow.lib.ArrowInvalid: Integer value 9 not in range", "ArrowInvalid: Integer value 9 not in"),
        ("zlib.error: Error -3 while decompressing: bad header", "error: Error -3 while decompressing"),
        ("s3fs.core.FileExpired: x has changed", "FileExpired: x has changed"),
        ("MemoryError", "MemoryError; finished units"),
        ("KeyError: 'a'\nand a second line: of its message", "KeyError: 'a'"),
    ],
)
def test_what_a_stage_raised_is_told_and_not_rays_advice(notes, raised, reason):
    fault = explain_failure(RuntimeError(RAY_TEXT.format(raised=raised)), notes)
    assert not isinstance(fault, ConfigError)
    assert str(fault).startswith(reason)
    assert "transient" not in str(fault)


def test_without_a_note_the_last_line_of_the_error_is_the_reason(notes):
    fault = explain_failure(RuntimeError("Traceback\nOSError: bucket is gone\n"), notes)
    assert str(fault).startswith("OSError: bucket is gone; ")
