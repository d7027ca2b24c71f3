"""Exit codes of jobs."""

import signal
import subprocess
import sys

import pytest

from pipelines.command.job import run_job_command


def test_a_sigterm_that_rays_handler_took_counts_as_interrupted(capsys):
    assert run_job_command(lambda: sys.exit(signal.SIGTERM)) == 3
    assert "interrupted: what is finished is kept" in capsys.readouterr().err


def test_another_exit_is_passed_on():
    with pytest.raises(SystemExit):
        run_job_command(lambda: sys.exit(5))


def test_a_reader_who_leaves_early_ends_no_job_and_sees_no_traceback():
    program = (
        "import sys; from pipelines.command.job import job_console, run_job_command\n"
        "def run():\n"
        "    for number in range(20000):\n"
        "        job_console().out(number)\n"
        "    return 0\n"
        "sys.exit(run_job_command(run))"
    )
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as job:
        assert job.stdout.readline() == b"0\n"
        job.stdout.close()
        assert job.stderr.read() == b""
    assert job.returncode == 0
