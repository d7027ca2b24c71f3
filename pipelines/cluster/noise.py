"""Lines of Ray that mean nothing in a job, kept from the operator's terminal and log."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

# Ray Data ends its actors at the end of a run, and Ray says of each call to one that it will be made again.
ENDED_ON_PURPOSE = "retries remaining, so the task will be retried.*killed by `ray.kill`"
# Ray Data hands every actor its stage by reference, and keeps that for as long as there are actors.
ARGUMENTS = "has constructor arguments in the object store and max_restarts > 0"
FLUSH_S = 2.0


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Within this, what this process and Ray's native code in it write to stderr goes through grep.

    That is a process, so that what a crash writes last still comes out, and in a session of its own, since a
    Ctrl-C is for the job.
    """
    grep = shutil.which("grep")
    if grep is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    command = [grep, "--line-buffered", "-vF", ARGUMENTS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=kept, start_new_session=True)
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child that has the pipe too keeps it open
            process.wait(FLUSH_S)
