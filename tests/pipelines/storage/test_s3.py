"""Storage against an S3 server, and against one that refuses."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.cluster.lock import RunLock
from pipelines.read.shards import inspect_shards, list_shards
from pipelines.storage import files as storage
from pipelines.storage import listing
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.errors import StorageError
from tests.pipelines.s3 import KEY, SECRET


@pytest.fixture
def bucket(s3) -> str:
    use_storage(StorageConfig(**s3.storage()))
    return s3.new_bucket()


@pytest.fixture
def refusing(request):
    """A server that answers every request as its parameter says: (status, S3 error code), echoing the key."""
    status, code = request.param
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue"

        def _answer(self) -> None:
            seen.append(self.command)
            message = f"<Message>no entry for {KEY} with {SECRET}</Message>"
            body = f"<Error><Code>{code}</Code>{message}</Error>".encode()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_storage(
        StorageConfig(
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            key=KEY,
            secret=SECRET,
            region="us-east-1",
            attempts=2,
        )
    )
    yield seen
    server.shutdown()


def write(url: str, **columns) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    storage.put(url, buffer.getvalue().to_pybytes())


def test_what_is_put_is_read_back_and_listed_at_once(bucket):
    assert storage.list_directory(f"{bucket}/x") == {}
    storage.put(f"{bucket}/x/file", b"old and longer")
    assert storage.list_directory(f"{bucket}/x") == {"file": 14}
    storage.put(f"{bucket}/x/file", b"new")
    assert storage.list_directory(f"{bucket}/x") == {"file": 3}
    assert storage.read_bytes(f"{bucket}/x/file") == b"new"


def test_what_another_machine_writes_is_seen(bucket, s3):
    assert storage.read_bytes(f"{bucket}/x/file") is None
    s3.client().pipe_file(f"{bucket}/x/file", b"theirs")
    assert storage.read_bytes(f"{bucket}/x/file") == b"theirs"
    assert storage.list_directory(f"{bucket}/x") == {"file": 6}
    s3.client().pipe_file(f"{bucket}/x/file", b"theirs again")
    with storage.open_file(f"{bucket}/x/file") as handle:
        assert handle.read() == b"theirs again"


def test_only_the_first_of_two_creates_the_file(bucket):
    assert storage.create(f"{bucket}/lock", b"one")
    assert not storage.create(f"{bucket}/lock", b"two")
    assert storage.read_bytes(f"{bucket}/lock") == b"one"


def test_a_create_whose_answer_was_lost_knows_its_own_file(bucket):
    storage.put(f"{bucket}/lock", b"mine, written by a try that seemed to fail")
    assert storage.create(f"{bucket}/lock", b"mine, written by a try that seemed to fail")


def test_a_removed_file_is_gone_and_may_be_removed_twice(bucket):
    storage.put(f"{bucket}/file", b"x")
    storage.remove(f"{bucket}/file")
    storage.remove(f"{bucket}/file")
    assert storage.read_bytes(f"{bucket}/file") is None


def test_a_directory_is_removed_and_not_those_that_its_marks_match(bucket):
    for name in ("out[1]/a", "out[1]/deep/b", "out1/a", "out[1]b"):
        storage.put(f"{bucket}/{name}", b"x")
    storage.remove_tree(f"{bucket}/out[1]")
    storage.remove_tree(f"{bucket}/none")
    left = [file.url.removeprefix(f"{bucket}/") for file in listing.list_tree(bucket)]
    assert left == ["out1/a", "out[1]b"]


def test_a_second_driver_finds_the_lock_held(bucket):
    with (
        RunLock(f"{bucket}/_run", beat_s=0.1),
        pytest.raises(ConfigError, match="another run is at work"),
        RunLock(f"{bucket}/_run", stale_s=2.0),
    ):
        pass
    assert storage.read_bytes(f"{bucket}/_run/lock") is None


def test_many_threads_share_one_file_system(bucket):
    names = [f"{bucket}/t/{n}" for n in range(40)]
    storage.map_files(lambda url: storage.put(url, url.encode()), names)
    assert storage.map_files(storage.read_bytes, names) == [url.encode() for url in names]


def test_footers_take_one_request_for_each_shard_and_listing_none(bucket, s3):
    for number in range(30):
        write(f"{bucket}/in/{number:02}.parquet", q=["a"] * (number % 3), n=list(range(number % 3)))
    before = len(s3.requests())
    files = list_shards([f"{bucket}/in/*.parquet"], "auto")
    listed = len(s3.requests())
    assert len(files) == 30
    assert listed - before <= 8  # two of them: whether the name is meant as written
    shards = inspect_shards(files, needed={"q": "text"}, unit_rows=10).shards
    assert [shard.num_rows for shard in shards] == [number % 3 for number in range(30)]
    assert len(s3.requests()) - listed == 30


def test_a_shard_overwritten_since_it_was_listed_is_not_read(bucket):
    write(f"{bucket}/in/a.parquet", q=["aaaa"])
    files = list_shards([f"{bucket}/in"], "auto")
    write(f"{bucket}/in/a.parquet", q=["bbbb"])
    with pytest.raises(ConfigError, match="has changed since"):
        inspect_shards(files, needed={"q": "text"}, unit_rows=10)


def test_a_missing_bucket_is_one_line(bucket):
    with pytest.raises(ConfigError) as caught:
        storage.check_reachable("s3://no-such-bucket/out", "output.path")
    assert str(caught.value) == "output.path: no bucket no-such-bucket for s3://no-such-bucket/out"
    with pytest.raises(ConfigError, match="no bucket no-such-bucket"):
        listing.list_inputs("s3://no-such-bucket/*.parquet", (".parquet",))
    with pytest.raises(ConfigError, match="no bucket no-such-bucket"):
        storage.create("s3://no-such-bucket/lock", b"")


def test_a_missing_profile_is_one_line(bucket, s3):
    use_storage(StorageConfig(endpoint_url=s3.endpoint, profile="nobody"))
    with pytest.raises(ConfigError, match=r"cannot reach s3://b/x: ProfileNotFound: .*\(nobody\)"):
        storage.check_reachable("s3://b/x", "output.path")


def test_nobody_at_the_endpoint_is_known_in_seconds(bucket):
    use_storage(StorageConfig(endpoint_url="http://127.0.0.1:9", key=KEY, secret=SECRET))
    started_at = time.perf_counter()
    with pytest.raises(ConfigError, match="Could not connect to the endpoint"):
        storage.check_reachable("s3://b/x", "output.path")
    assert time.perf_counter() - started_at < 15


@pytest.mark.parametrize("refusing", [(403, "InvalidAccessKeyId"), (403, "AccessDenied")], indirect=True)
def test_refused_credentials_are_one_line_at_once_and_are_not_shown(refusing):
    with pytest.raises(ConfigError) as caught:
        storage.check_reachable("s3://b/x", "output.path")
    assert str(caught.value) == (
        "output.path: cannot reach s3://b/x: refused by the store: no entry for ********** with **********"
    )
    assert len(refusing) == 1
    for call in (
        storage.read_bytes,
        storage.list_directory,
        storage.remove,
        lambda url: storage.put(url, b""),
    ):
        with pytest.raises(StorageError, match="s3://b/x: refused by the store") as refused:
            call("s3://b/x")
        assert SECRET not in str(refused.value)
        assert KEY not in str(refused.value)


@pytest.mark.parametrize("refusing", [(500, "InternalError"), (503, "SlowDown")], indirect=True)
def test_a_store_that_fails_is_asked_again_but_not_for_ever(refusing):
    with pytest.raises(StorageError, match="s3://b/x: OSError"):
        storage.put("s3://b/x", b"")
    assert 2 <= len(refusing) <= 10  # s3fs repeats a SlowDown five times, botocore each of them twice


@pytest.mark.parametrize("refusing", [(403, "AccessDenied")], indirect=True)
def test_a_lock_that_must_not_be_written_is_a_config_error(refusing):
    with pytest.raises(ConfigError, match="output.path: .*refused by the store"), RunLock("s3://b/_run"):
        pass


def test_lock_and_json_survive_a_round_trip(bucket):
    with RunLock(f"{bucket}/_run"):
        assert set(json.loads(storage.read_bytes(f"{bucket}/_run/lock"))) >= {"id", "host", "pid", "beats"}
