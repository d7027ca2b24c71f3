"""Who sees whom during training: one rule, from which every form of the mask comes.

A query sees two ranges of keys. Keys are counted through: the N tokens of the packed row, whose keys the AR
view made, then the M slots of the blocks. A token of the text sees the text from the start of its document to
itself. A slot sees the text from the start of its anchor's document up to the anchor, the anchor left out,
and all slots of its own block. A sliding window moves the starts of both ranges.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from orthrus_core.training.anchors import Blocks
from orthrus_core.training.packing import PackedBatch

TILE = 128  # queries and keys per tile of a block mask, the size that flex_attention is made for

MaskRule = Callable[[Any, Any, Any, Any], Tensor]


@dataclass(frozen=True)
class Sight:
    """The keys that each of Q queries sees, as half-open ranges; a range is empty where it ends at its start.

    Attributes:
        text_from, text_to: (B, Q) int32, of the text's keys.
        own_from, own_to: (B, Q) int32, of the slots' keys; N or more where not empty.
        place: (B, Q) int32, where the query stands in the packed row; windows are counted from there.
        num_text_keys: N.
        num_keys: N + M.
    """

    text_from: Tensor
    text_to: Tensor
    own_from: Tensor
    own_to: Tensor
    place: Tensor
    num_text_keys: int
    num_keys: int

    def within(self, window: int | None) -> "Sight":
        """What is left of it in a layer with a sliding window.

        The past is cut as for the AR row at the same place; what comes after a row stays.

        Args:
            window: places up to its own that a query sees; None: all.
        """
        if window is None:
            return self
        first = self.place - window + 1
        own_from = self.own_from + (first - self.text_to).clamp(min=0)  # a block starts at text_to
        # A slot past the end of a short block is void, but a query that sees nothing would be NaN.
        own_from = torch.minimum(own_from, (self.own_to - 1).clamp(min=0))
        return replace(self, text_from=torch.maximum(self.text_from, first), own_from=own_from)

    def rule(self) -> MaskRule:
        """The rule as a function of batch row, head, query and key, numbers or tensors that broadcast."""
        text_from, text_to, own_from, own_to = self.text_from, self.text_to, self.own_from, self.own_to

        def sees(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Tensor:
            in_text = (kv_idx >= text_from[b, q_idx]) & (kv_idx < text_to[b, q_idx])
            in_block = (kv_idx >= own_from[b, q_idx]) & (kv_idx < own_to[b, q_idx])
            return in_text | in_block

        return sees

    def mask_of(self, kv_idx: Tensor) -> Tensor:
        """Apply the rule to some keys.

        Args:
            kv_idx: (M',) or (Q, M') int64, the keys to ask for, the same for all queries or not.
        Returns:
            (B, 1, Q, M') bool.
        """
        B, Q = self.place.shape
        rows = torch.arange(B, device=kv_idx.device)[:, None, None, None]
        queries = torch.arange(Q, device=kv_idx.device)[:, None]
        return self.rule()(rows, 0, queries, kv_idx)

    def text_mask(self) -> Tensor:
        """(B, 1, Q, N) bool: which keys of the text each query sees."""
        return self.mask_of(torch.arange(self.num_text_keys, device=self.place.device))

    def own_mask(self, block_size: int) -> Tensor:
        """(B, 1, Q, K) bool: which slots of its own block each slot sees; blocks are K slots wide."""
        slots = torch.arange(self.place.shape[1], device=self.place.device)
        first = self.num_text_keys + slots // block_size * block_size
        return self.mask_of(first[:, None] + torch.arange(block_size, device=slots.device))

    def num_visible(self) -> Tensor:
        """() int64, pairs of a query and a key that it sees."""
        lengths = (self.text_to - self.text_from).clamp(min=0) + (self.own_to - self.own_from).clamp(min=0)
        return lengths.sum()


def text_sight(batch: PackedBatch) -> Sight:
    """The AR view: a token sees its document up to itself, padding sees itself; Q = N."""
    place = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
    N, nothing = place.shape[1], torch.zeros_like(place)
    # Positions count from the start of the document, and are 0 in the padding.
    return _sight((place - batch.position_ids, place + 1, nothing, nothing, place), N, N)


def block_sight(batch: PackedBatch, blocks: Blocks, *, num_slots: int | None = None) -> Sight:
    """The diffusion view: a slot sees its document before the anchor, and its block.

    Args:
        num_slots: Q = M, at least A * K: slots past A * K belong to no block and see themselves alone.
    """
    N, K = batch.input_ids.shape[1], blocks.slot_idx.shape[-1]
    anchor, offset = blocks.anchor_idx, torch.arange(K, device=blocks.anchor_idx.device)
    start = anchor - batch.position_ids.gather(1, anchor)
    own_from = N + K * torch.arange(anchor.shape[1], device=anchor.device).expand_as(anchor)
    own_to = own_from + blocks.in_block.sum(-1)
    per_block = [values.repeat_interleave(K, dim=1) for values in (start, anchor, own_from, own_to)]
    place = (anchor[..., None] + offset).flatten(1)
    used, slots = place.shape[1], num_slots or place.shape[1]
    spare = torch.arange(N + used, N + slots, device=anchor.device).expand(anchor.shape[0], -1)
    nothing = torch.zeros_like(spare)
    ends = (nothing, nothing, spare, spare + 1, nothing)
    columns = (torch.cat(pair, dim=1) for pair in zip((*per_block, place), ends, strict=True))
    return _sight(columns, N, N + slots)


def _sight(columns: Iterable[Tensor], num_text_keys: int, num_keys: int) -> Sight:
    """columns: (B, Q) each, in the order of `Sight`'s attributes."""
    text_from, text_to, own_from, own_to, place = (column.int() for column in columns)
    return Sight(text_from, text_to, own_from, own_to, place, num_text_keys, num_keys)


def block_mask(sight: Sight, *, tile: int = TILE) -> BlockMask:
    """FlexAttention's form of the mask, made from the ranges: no (Q, N + M) mask is ever held.

    The largest intermediate is (B, Q, (N + M) / tile) bool. `create_block_mask` gives the same tiles, but
    looks at every pair.

    Args:
        sight: Q and N + M are multiples of `tile`.
    """
    some, whole = _tiles(sight, tile)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=tile,
        mask_mod=sight.rule(),
        seq_lengths=(sight.place.shape[1], sight.num_keys),
    )


def _tiles(sight: Sight, tile: int) -> tuple[Tensor, Tensor]:
    """(B, 1, Q / tile, (N + M) / tile) bool each: tiles with a visible pair, tiles wholly in one range."""
    start = torch.arange(0, sight.num_keys, tile, device=sight.place.device)
    some, whole = [], []
    for first, end in ((sight.text_from, sight.text_to), (sight.own_from, sight.own_to)):
        first, end = first[..., None], end[..., None]
        some.append(torch.maximum(first, start) < torch.minimum(end, start + tile))
        whole.append((first <= start) & (end >= start + tile))
    by_tile = (some[0].shape[0], 1, -1, tile, len(start))
    return (some[0] | some[1]).view(by_tile).any(3), (whole[0] | whole[1]).view(by_tile).all(3)


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles of keys each tile of queries has, and which, those first (int32 each)."""
    order = tiles.byte().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32), order.int()
