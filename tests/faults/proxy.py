"""A proxy in front of an S3 server that can be told to misbehave: on loopback, ended with its block."""

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FORWARD_S = 30.0  # longest wait for the server behind
CODES = {
    500: "InternalError",
    503: "SlowDown",
    403: "AccessDenied",
}
HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive", "expect")


@dataclass
class Rule:
    """What happens to some of the requests.

    Attributes:
        kind: "status" (an error of S3 instead of an answer), "slow" (the answer comes `seconds` later),
            "reset" (the connection breaks before the request gets through), "truncate" (half of the body
            comes), "lost" (the request is carried out, and the connection breaks instead of the answer).
        pattern: of "METHOD /bucket/name?query".
        status: of kind "status": 403, 500 or 503.
        count: so many requests; None: without end.
        every: of the requests that match, each so-manieth.
        seconds: of kind "slow".
    """

    kind: str
    pattern: str = ".*"
    status: int = 503
    count: int | None = None
    every: int = 1
    seconds: float = 0.0
    seen: int = 0


@dataclass
class FaultProxy:
    """Rules of a running proxy; the first that applies decides.

    Attributes:
        endpoint: its URL.
        hits: how many requests met with each kind of fault.
    """

    endpoint: str = ""
    hits: Counter = field(default_factory=Counter)
    _rules: list[Rule] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *rules: Rule) -> None:
        """Misbehave from now on."""
        with self._guard:
            self._rules += rules

    def clear(self) -> None:
        """Behave, and count from 0 again."""
        with self._guard:
            self._rules.clear()
            self.hits.clear()

    def rule_for(self, request: str) -> Rule | None:
        """The rule that applies to a request now, and count it."""
        with self._guard:
            for rule in self._rules:
                if rule.count == 0 or not re.match(rule.pattern, request):
                    continue
                rule.seen += 1
                if rule.seen % rule.every:
                    continue
                if rule.count is not None:
                    rule.count -= 1
                self.hits[f"{rule.kind} {rule.status}" if rule.kind == "status" else rule.kind] += 1
                return rule
        return None


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy before a server; it ends with the block."""
    proxy = FaultProxy()
    server = _Server(proxy, urlsplit(upstream).netloc)
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="fault-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: FaultProxy, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.upstream = upstream  # host:port


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    timeout = 60

    def handle_one_request(self) -> None:
        """One request; a client that has gone is no matter."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def answer(self) -> None:
        """Read a request and do with it as the rules say."""
        body = self._body()
        rule = self.server.proxy.rule_for(f"{self.command} {self.path}")
        kind = rule.kind if rule else None
        if kind == "reset":
            self._reset()
        elif kind == "status":
            self._send(rule.status, {"Content-Type": "application/xml"}, _error(rule.status))
        else:
            status, headers, content = self._forward(body)
            if kind == "slow":
                time.sleep(rule.seconds)
            if kind == "lost":
                self._reset()
            else:
                self._send(status, headers, content, is_cut=kind == "truncate")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815  names that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=FORWARD_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        try:
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: dict[str, str], body: bytes, is_cut: bool = False) -> None:
        self.send_response_only(status)
        names = (*HOP_BY_HOP, "content-length") if self.command != "HEAD" else HOP_BY_HOP
        for name, value in headers.items():
            if name.lower() not in names:
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.close_connection = is_cut

    def _reset(self) -> None:
        """Break the connection so that the client sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _error(status: int) -> bytes:
    code = CODES[status]
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
