"""JSON lines and arrays: their rows, the types of their columns, and what a file is that has no row."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from pipelines.read.arrow_types import JSON_TEXT, finished, infer_type, join_json

SCAN_BYTES = 2**20  # of a file at once
SCAN_LINES = 512  # whose types are inferred at once; objects whose keys are data take lines x keys of memory
BOM = b"\xef\xbb\xbf"
ARRAY = re.compile(r"\ufeff?[ \t\r\n]*\[[ \t\r\n]*")
BETWEEN = re.compile(r"[ \t\r\n]*(,[ \t\r\n]*(?=[^\] \t\r\n])|(?=\]))")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# What files begin with that are no text, and what to do about it.
MAGIC = {
    b"\x1f\x8b": "gzip data; name the file .jsonl.gz",
    b"PAR1": "Parquet; name the file .parquet, or leave out input.format",
    b"\x28\xb5\x2f\xfd": "zstd data; name the file so, or decompress it",
    b"BZh": "bzip2 data; name the file so, or decompress it",
    b"\xfd7zXZ": "xz data; name the file so, or decompress it",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\xff\xfe": "UTF-16 text; write UTF-8",
    b"\xfe\xff": "UTF-16 text; write UTF-8",
}
OPENINGS = (b"[", b"{")  # first lines of a document over several lines, of which one may look like a row
# Of a column's kind: the values that fit it, and its type before any is known.
KINDS: Mapping[str, tuple[type | tuple[type, ...], pa.DataType]] = {
    "text": (str, pa.string()),
    "list": (list, pa.list_(pa.null())),
    "messages": ((list, str), pa.null()),
    "any": (object, pa.null()),
}


def split_lines(stream: IO[bytes], head: bytes = b"") -> Iterator[bytes]:
    """Lines with their ends, the last one perhaps without; head is what was read of the first ones."""
    *whole, rest = head.split(b"\n")
    yield from (line + b"\n" for line in whole)
    while chunk := stream.read(SCAN_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def jsonl_rows(lines: Sequence[bytes]) -> Iterator[dict[str, Any] | str]:
    """Each line as a dict, or as the reason why it is none."""
    for line in lines:
        try:
            row = json.loads(line.decode("utf-8-sig"))
            if SURROGATE.search(line):
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            yield "line has text that cannot be encoded as UTF-8"
        except RecursionError:
            yield "line is nested too deeply"
        except ValueError as error:
            yield f"line is not json: {error}"
        else:
            yield row if isinstance(row, dict) else f"line is a json {type(row).__name__}, not an object"


def array_spans(content: bytes) -> list[tuple[int, int]]:
    """Where each element of a JSON array begins and ends, in bytes.

    Raises:
        ValueError: it is none, or not UTF-8.
    """
    text, scan = content.decode(), json.JSONDecoder().raw_decode
    if (opening := ARRAY.match(text)) is None:
        raise ValueError("it does not begin with [")
    at, spans = opening.end(), []
    counted = place = 0  # the same place in characters and in bytes
    while not text.startswith("]", at):
        _, end = scan(text, at)
        start = place + len(text[counted:at].encode())
        counted, place = end, start + len(text[at:end].encode())
        spans.append((start, place))
        if (between := BETWEEN.match(text, end)) is None:
            raise ValueError(f"neither a comma and an element nor ] follows element {len(spans) - 1}")
        at = between.end()
    if text[at + 1 :].strip():
        raise ValueError("there is more behind the array")
    return spans


def describe_line(line: bytes) -> str:
    """What a line is that holds no row, and what to do about it."""
    for magic, what in MAGIC.items():
        if line.startswith(magic):
            return what
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {line[error.start]:#x} at {error.start}); convert the file to UTF-8"
    if text.startswith("["):
        return "a JSON array or its beginning; name the file .json, or set input.format: json"
    if text == "{":
        return "the beginning of an object over several lines; write one object a line, as `jq -c .` does"
    [row] = jsonl_rows([line])
    return f"{text!r:.60}: {row}"


class JsonColumns:
    """Types of the columns of JSON lines; values without a common type are carried as JSON text."""

    def __init__(self, needed: Mapping[str, str], carried: Collection[str] | None):
        """Args: as `shards.inspect_shards`."""
        self._needed = needed
        self._carried = carried
        self._types: dict[str, pa.DataType] = {}

    def add_lines(self, lines: Sequence[bytes]) -> bool:
        """Take in rows; returns whether there was any."""
        columns: dict[str, list[Any]] = {}
        rows = [row for row in jsonl_rows(lines) if isinstance(row, dict)]
        for row in rows:
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        for name, values in columns.items():
            if self._types.get(name) != JSON_TEXT:
                self._join(name, self._infer(name, values))
        return bool(rows)

    def add_texts(self, names: Iterable[str]) -> None:
        """Take in columns of text."""
        for name in names:
            self._join(name, pa.string())

    def join(self, other: "JsonColumns") -> None:
        """Take in the columns of another file."""
        for name, kind in other._types.items():
            self._join(name, kind)

    @property
    def schema(self) -> pa.Schema:
        """The columns in the order in which they first appear; JSON_TEXT for those that nobody asks for."""
        return pa.schema([(name, finished(kind)) for name, kind in self._types.items()])

    def _infer(self, name: str, values: list[Any]) -> pa.DataType:
        """Of a column that must be text or a list, other values are faults of their rows."""
        if self._carried is not None and name not in {*self._needed, *self._carried}:
            return JSON_TEXT
        wanted, least = KINDS[self._needed.get(name, "any")]
        return join_json(least, infer_type([value for value in values if isinstance(value, wanted)]))

    def _join(self, name: str, kind: pa.DataType) -> None:
        self._types[name] = join_json(self._types.get(name, pa.null()), kind)
