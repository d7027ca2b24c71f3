"""Exit codes of jobs."""

import signal
import sys

import pytest

from pipelines.command import run_job_command


def test_a_sigterm_that_rays_handler_took_counts_as_interrupted(capsys):
    assert run_job_command(lambda: sys.exit(signal.SIGTERM)) == 3
    assert "interrupted: what is finished is kept" in capsys.readouterr().err


def test_another_exit_is_passed_on():
    with pytest.raises(SystemExit):
        run_job_command(lambda: sys.exit(5))
