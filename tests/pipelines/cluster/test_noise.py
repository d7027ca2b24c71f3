"""Lines of Ray that are left out, and all others, which come through."""

import os
import re

import pytest

from pipelines.cluster.noise import ARGUMENTS, ENDED_ON_PURPOSE, quiet_stderr

RETRY = (
    "Task MapWorker.submit failed. There are infinite retries remaining, so the task will be retried. Error: "
)


def test_what_native_code_writes_to_stderr_comes_through_but_for_the_line_that_means_nothing(capfd):
    with quiet_stderr():
        os.write(2, f"before\nE 1 2 core_worker.cc: Actor X {ARGUMENTS}. See https://...\n".encode())
        os.write(2, b"last words")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "before\nlast words\nafterwards\n"


def test_without_grep_nothing_is_left_out(capfd, monkeypatch):
    monkeypatch.setattr("pipelines.cluster.noise.shutil.which", lambda _: None)
    with quiet_stderr():
        os.write(2, f"{ARGUMENTS}\n".encode())
    assert ARGUMENTS in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "is_left_out"),
    [
        (RETRY + "The actor is dead because it was killed by `ray.kill`.", True),
        (RETRY + "The actor died unexpectedly before finishing this task.", False),
    ],
)
def test_only_retries_of_actors_that_were_ended_on_purpose_are_left_out(line, is_left_out):
    assert (re.search(ENDED_ON_PURPOSE, line) is not None) == is_left_out
