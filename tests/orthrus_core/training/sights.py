"""Packed layouts of odd sizes, and who sees whom in them, said again in plain loops."""

import itertools

from orthrus_core.training.anchors import Blocks
from orthrus_core.training.packing import Document, PackedBatch, collate

# (lengths of prompt and completion of each document) of each packed row, and the row's length
LAYOUTS = {
    "one document": ([[(2, 5)]], 7),
    "two documents and padding": ([[(1, 4), (3, 6)]], 17),
    "several rows of odd sizes": ([[(1, 2), (2, 7), (1, 1)], [(4, 9)], []], 19),
}


def build(layout: str) -> PackedBatch:
    """A batch of the layout; what its tokens are does not matter."""
    rows, sequence_len = LAYOUTS[layout]
    documents = [[Document([1] * prompt, [2] * completion) for prompt, completion in row] for row in rows]
    return collate(documents, sequence_len=sequence_len)


def document_of(layout: str, row: int, place: int) -> tuple[int, int] | None:
    """First place of the document that stands here and the place after its last; None: padding."""
    start = 0
    for prompt, completion in LAYOUTS[layout][0][row]:
        end = start + prompt + completion
        if start <= place < end:
            return start, end
        start = end
    return None


def text_sees(layout: str, row: int, query: int, window: int | None) -> set[int]:
    """Places of the text that a token of a document sees in the AR view."""
    start, _ = document_of(layout, row, query)
    return {key for key in range(start, query + 1) if window is None or query - key < window}


def slot_sees(
    layout: str, blocks: Blocks, row: int, block: int, slot: int, window: int | None
) -> tuple[set[int], set[int]]:
    """Places of the text, and slots of the own block, that a slot of a block sees."""
    anchor = int(blocks.anchor_idx[row, block])
    start, _ = document_of(layout, row, anchor)
    length = int(blocks.in_block[row, block].sum())
    near = window if window is not None else 10**6
    text = {key for key in range(start, anchor) if anchor + slot - key < near}
    return text, {other for other in range(length) if slot - other < near}


def slots_in_documents(layout: str, blocks: Blocks) -> list[tuple[int, int, int]]:
    """(row, block, slot) of every slot of a block whose anchor is a token of a document."""
    B, A, K = blocks.in_block.shape
    return [
        (row, block, slot)
        for row, block, slot in itertools.product(range(B), range(A), range(K))
        if blocks.in_block[row, block, slot] and document_of(layout, row, int(blocks.anchor_idx[row, block]))
    ]
