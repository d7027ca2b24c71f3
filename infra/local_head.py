"""A Ray head on this machine for `ray job submit`: on loopback, with token auth, for a limited time.

    python infra/local_head.py --life-s 3600 --env-file build/head.env &   # . build/head.env; ray job submit
    python infra/local_head.py -- ray job submit --working-dir . -- python jobs/generate.py --config ...

With a command it runs that beside the head, ends the head after it and exits with the command's code. The
head ends at Ctrl-C, at SIGTERM, or when its life is over, and takes with it only what it started: other Ray
sessions on the machine stay, which `ray stop` would end.
"""

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
START_S = 180.0  # a laden machine of 2 cores takes half a minute
END_S = 15.0
GRACE_S = 2.0  # for processes to end by themselves once their raylet has
MARK = "ORTHRUS_LOCAL_HEAD"  # in the environment of every process of the head
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep a head; returns the exit code of the command, 0 without one."""
    options = _options(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    directory = Path(tempfile.mkdtemp(prefix="ray-head-"))  # short: sockets below it have long names
    try:
        environment = new_environment(directory)
        with running_head(directory, environment, options) as process:
            shown = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in client_side(environment))
            _put(options.env_file, shown)
            if options.command:
                return subprocess.run(options.command, env=environment, timeout=options.life_s).returncode
            sys.stdout.write(shown + f"# ready, for {options.life_s:g} s; logs in {directory}\n")
            sys.stdout.flush()
            return _wait(process, options.life_s)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"the head's --life-s of {options.life_s:g} s is over, the command was stopped\n")
        return 1
    finally:
        if options.env_file is not None:
            options.env_file.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def new_environment(directory: Path) -> dict[str, str]:
    """What the head and its clients have in common: its addresses and a new token, in a file of its own."""
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: text for name, text in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    return environment | {
        "RAY_ADDRESS": f"{LOOPBACK}:{free_port()}",
        "RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{free_port()}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray puts the machine's own address for 127.0.0.1
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
        MARK: str(directory),
    }


def client_side(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a shell needs to reach the head."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    return [(name, environment[name]) for name in names]


@contextlib.contextmanager
def running_head(
    directory: Path, environment: Mapping[str, str], options: argparse.Namespace
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the head, wait until it answers, and end it and all that it started with the block."""
    log, agent_port = directory / "head.log", free_port()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*RAY, *start_options(directory, environment, options.num_cpus, agent_port)],
            env=dict(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, environment, agent_port, log)
        yield process
    finally:
        end(process, str(directory))


def start_options(
    directory: Path, environment: Mapping[str, str], num_cpus: int, agent_port: int
) -> list[str]:
    """Arguments of `ray start`: everything on loopback, at ports that nobody has."""
    options = {
        "node-ip-address": LOOPBACK,
        "port": environment["RAY_ADDRESS"].rpartition(":")[2],
        "include-dashboard": "true",
        "dashboard-host": LOOPBACK,
        "dashboard-port": environment["RAY_API_SERVER_ADDRESS"].rpartition(":")[2],
        "dashboard-agent-listen-port": agent_port,
        "ray-client-server-port": free_port(),
        "min-worker-port": 0,  # any free one; Ray's own range is shared by all sessions of a machine
        "max-worker-port": 0,
        "num-cpus": num_cpus,
        "object-store-memory": 200 * 2**20,
        "temp-dir": directory,
    }
    return ["start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the head with SIGTERM, and by SIGKILL what it leaves behind: processes with its mark, no others."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    kill_at = time.monotonic() + GRACE_S
    while (left := marked(mark)) and time.monotonic() < kill_at + END_S:
        if time.monotonic() > kill_at:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def marked(mark: str) -> list[int]:
    """Processes that were started with the mark of this head, this one left out."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])


def _wait_until_ready(
    process: subprocess.Popen[bytes], environment: Mapping[str, str], agent_port: int, log: Path
) -> None:
    """Wait until the job server answers to the token and the agent that starts jobs is there.

    Raises:
        SystemExit: they do not come; with the head's log.
    """
    deadline = time.monotonic() + START_S
    while not (_answers(environment) and _listens(agent_port)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the head did not start: {log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def _answers(environment: Mapping[str, str]) -> bool:
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"{environment['RAY_API_SERVER_ADDRESS']}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((LOOPBACK, port)) == 0


def _wait(process: subprocess.Popen[bytes], life_s: float) -> int:
    try:
        return process.wait(life_s)
    except subprocess.TimeoutExpired:
        return 0


def _put(path: Path | None, text: str) -> None:
    """Write the file in one step, so that whoever waits for it finds it whole."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)


def _stop(number: int, _: object) -> None:
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)  # the end is not to be broken off
    raise SystemExit(128 + number)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--life-s", type=float, default=3600.0, help="seconds after which it ends")
    parser.add_argument("--num-cpus", type=int, default=os.cpu_count() or 1, help="CPUs that it offers")
    parser.add_argument("--env-file", type=Path, help="where a shell finds what it needs; gone with the head")
    parser.add_argument("command", nargs="*", help="runs beside the head, which ends after it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
