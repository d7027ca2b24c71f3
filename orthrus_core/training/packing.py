"""Documents packed into rows of equal length, with document borders kept."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from orthrus_core.errors import ConfigError

PADDING_DOCUMENT = -1


@dataclass(frozen=True)
class Document:
    """One prompt with its completion (final EOS included)."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


class PackedBatch(NamedTuple):
    """Documents laid side by side; B packed rows of N tokens.

    Attributes:
        input_ids: (B, N) int64, 0 in the padding.
        position_ids: (B, N) int64, starting at 0 in each document.
        document_idx: (B, N) int64, counted per packed row, `PADDING_DOCUMENT` in the padding.
        is_completion: (B, N) bool, tokens that the backbone emits.
    """

    input_ids: Tensor
    position_ids: Tensor
    document_idx: Tensor
    is_completion: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of documents, padding not counted."""
        return int((self.document_idx != PADDING_DOCUMENT).sum())

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on `device`."""
        return PackedBatch(*(part.to(device) for part in self))

    def padded(self, multiple: int) -> "PackedBatch":
        """The same batch with padding at the end of its rows, their length a multiple of `multiple`."""
        missing = -self.input_ids.shape[1] % multiple
        if not missing:
            return self
        return PackedBatch(
            pad(self.input_ids, (0, missing)),
            pad(self.position_ids, (0, missing)),
            pad(self.document_idx, (0, missing), value=PADDING_DOCUMENT),
            pad(self.is_completion, (0, missing), value=False),
        )


def has_next(batch: PackedBatch) -> Tensor:
    """(B, N) bool: tokens followed by another token of their own document."""
    document_idx = batch.document_idx
    follows = (document_idx[:, 1:] == document_idx[:, :-1]) & (document_idx[:, 1:] != PADDING_DOCUMENT)
    return pad(follows, (0, 1), value=False)


def collate(rows: Sequence[Sequence[Document]], *, sequence_len: int) -> PackedBatch:
    """Lay the documents of each row side by side, padding at the end.

    Args:
        rows: B lists of documents, each list at most `sequence_len` tokens in total.
        sequence_len: N, tokens per packed row.
    """
    shape = (len(rows), sequence_len)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    document_idx = torch.full(shape, PADDING_DOCUMENT, dtype=torch.int64)
    is_completion = torch.zeros(shape, dtype=torch.bool)
    for row, documents in enumerate(rows):
        start = 0
        for index, document in enumerate(documents):
            end = start + len(document)
            input_ids[row, start:end] = torch.tensor([*document.prompt_ids, *document.completion_ids])
            position_ids[row, start:end] = torch.arange(end - start)
            document_idx[row, start:end] = index
            is_completion[row, start + len(document.prompt_ids) : end] = True
            start = end
    return PackedBatch(input_ids, position_ids, document_idx, is_completion)


def packed_batches(
    documents: Iterable[Document], *, sequence_len: int, sequences_per_batch: int, max_waiting: int = 16
) -> Iterator[PackedBatch]:
    """Pack a stream of documents, first fit, the order kept within `max_waiting` documents.

    A document that fits nowhere waits for the next batch; a batch is handed out when `max_waiting`
    documents wait. The last batches of a finite stream may hold empty rows, and are padded.

    Raises:
        ConfigError: a document is longer than `sequence_len`.
    """
    packer = Packer(sequence_len, sequences_per_batch)
    waiting: list[Document] = []
    for document in documents:
        if len(document) > sequence_len:
            raise ConfigError(
                f"a training document has {len(document)} tokens, sequence_len is {sequence_len}: "
                "raise sequence_len or drop the document"
            )
        if packer.add(document):
            continue
        waiting.append(document)
        if len(waiting) >= max_waiting:
            yield packer.flush()
            waiting = [late for late in waiting if not packer.add(late)]
    while packer.num_documents:
        yield packer.flush()
        waiting = [late for late in waiting if not packer.add(late)]


class Packer:
    """The open rows of one batch."""

    def __init__(self, sequence_len: int, sequences_per_batch: int) -> None:
        self._sequence_len = sequence_len
        self._rows: list[list[Document]] = [[] for _ in range(sequences_per_batch)]
        self._free = [sequence_len] * sequences_per_batch

    @property
    def num_documents(self) -> int:
        return sum(len(row) for row in self._rows)

    def add(self, document: Document) -> bool:
        """Place the document in the first row with room; False if there is none."""
        for row, free in enumerate(self._free):
            if len(document) <= free:
                self._rows[row].append(document)
                self._free[row] -= len(document)
                return True
        return False

    def flush(self) -> PackedBatch:
        """Close the batch and open an empty one."""
        batch = collate(self._rows, sequence_len=self._sequence_len)
        self._rows = [[] for _ in self._rows]
        self._free = [self._sequence_len] * len(self._rows)
        return batch
