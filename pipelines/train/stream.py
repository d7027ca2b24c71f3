"""Documents packed into batches, with the exact position of the data at every batch border."""

from collections.abc import Iterator
from typing import Any, Protocol

from orthrus_core.errors import ConfigError
from orthrus_core.training.config import PackingConfig
from orthrus_core.training.packing import Document, PackedBatch, Packer

MAX_WAITING = 16  # documents that fit nowhere before a batch is closed


class Documents(Protocol):
    """An endless stream of documents with a position."""

    def __next__(self) -> Document:
        """The next document."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


class PackedStream:
    """Batches of one rank; first fit, as `packing.packed_batches`, without end.

    A batch is closed when `MAX_WAITING` documents fit nowhere in it; these open the next one. So at a batch
    border the position is that of the documents, and the documents that wait.
    """

    def __init__(self, documents: Documents, packing: PackingConfig) -> None:
        """Start at the documents' own position."""
        self._documents = documents
        self._sequence_len = packing.sequence_len
        self._packer = Packer(packing.sequence_len, packing.sequences_per_batch)
        self._waiting: list[Document] = []

    def __iter__(self) -> Iterator[PackedBatch]:
        return self

    def __next__(self) -> PackedBatch:
        self._waiting = [document for document in self._waiting if not self._packer.add(document)]
        while len(self._waiting) < MAX_WAITING:
            document = self._next_document()
            if not self._packer.add(document):
                self._waiting.append(document)
        return self._packer.flush()

    def _next_document(self) -> Document:
        document = next(self._documents)
        if len(document) > self._sequence_len:
            raise ConfigError(
                f"packing.sequence_len must be at least the tokens of every document, got "
                f"{self._sequence_len} and a document of {len(document)}: raise it"
            )
        return document

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch, ready for JSON."""
        waiting = [[list(d.prompt_ids), list(d.completion_ids)] for d in self._waiting]
        return {"documents": self._documents.state_dict(), "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch after which `state` was taken."""
        self._documents.load_state_dict(state["documents"])
        self._waiting = [Document(*ids) for ids in state["waiting"]]
