"""An S3 server on this machine for tests: moto's, one process for a whole session."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

KEY, SECRET = "AKIDTESTTESTTEST", "s3cr3t/of+the/test/bucket"
START_S = 120.0


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: its URL.
        log: path of the file with a line for each request.
    """

    endpoint: str
    log: str

    def storage(self, **more: Any) -> dict[str, Any]:
        """A section `storage` that reaches it."""
        return {"endpoint_url": self.endpoint, "key": KEY, "secret": SECRET, "region": "us-east-1", **more}

    def new_bucket(self) -> str:
        """Create a bucket; returns its URL."""
        name = f"b{uuid.uuid4().hex[:20]}"
        self.client().call_s3("create_bucket", Bucket=name)
        return f"s3://{name}"

    def client(self) -> Any:
        """An s3fs file system of its own, as another machine would have it."""
        import s3fs

        return s3fs.S3FileSystem(
            endpoint_url=self.endpoint,
            key=KEY,
            secret=SECRET,
            client_kwargs={"region_name": "us-east-1"},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def requests(self) -> list[str]:
        """All requests so far, as `GET /bucket/name`."""
        with open(self.log, encoding="utf-8", errors="replace") as lines:
            found = (re.search(r"([A-Z]+ /\S*) HTTP", line) for line in lines)
            return [match.group(1) for match in found if match]


@contextmanager
def s3_server(log: str) -> Iterator[S3Server]:
    """Start moto on a free port of 127.0.0.1; it ends with the block."""
    command = [os.path.join(os.path.dirname(sys.executable), "moto_server"), "-H", "127.0.0.1", "-p", "0"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    try:
        yield S3Server(_endpoint(log, process), log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _endpoint(log: str, process: subprocess.Popen) -> str:
    """The address that the server prints once it listens."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with open(log, encoding="utf-8") as lines:
            if match := re.search(r"Running on (http://127\.0\.0\.1:\d+)", lines.read()):
                return match.group(1)
        time.sleep(0.05)
    with open(log, encoding="utf-8") as lines:
        raise RuntimeError(f"moto_server did not start: {lines.read()[-500:]}")
