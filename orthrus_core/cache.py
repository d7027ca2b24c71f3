"""The paged K/V cache: pages, page tables, reference counts. The only writer of keys and values.

A *cell* holds the key and value of one position of one sequence; a page is `page_size` consecutive cells.
Page 0 is scratch: token rows left over in a forward write there and nobody reads it. The full pages of a
prompt, and of a completion that another prompt will go on with, are indexed by their tokens and the page
before, so that another prompt with the same beginning starts from them.
"""

import itertools
import random
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SCRATCH_PAGE = 0
PrefixKey = tuple[int, tuple[int, ...]]


class PagePool:
    """Owns which page belongs to whom. Holds no tensors.

    A page is free, held by `references[page]` sequences, or idle: held by nobody, its contents still indexed
    as a prompt prefix. Idle pages are given away, oldest first, when no free page is left.
    """

    def __init__(self, num_pages: int, page_size: int):
        """Args: num_pages counts the scratch page too and must be >= 2."""
        if num_pages < 2:
            raise ValueError(f"num_pages must be >= 2 (one is scratch), got {num_pages}")
        self.num_pages = num_pages
        self.page_size = page_size
        self.references = [0] * num_pages
        self._free = list(range(num_pages - 1, SCRATCH_PAGE, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of_key: dict[PrefixKey, int] = {}
        self._key_of_page: dict[int, PrefixKey] = {}
        self._serial_of_page: dict[int, int] = {}
        self._serials = itertools.count(1)

    @property
    def num_available(self) -> int:
        """Pages that `take` can give: free and idle ones."""
        return len(self._free) + len(self._idle)

    def take(self) -> int | None:
        """Return a page with one reference, or None when every page is held."""
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            del self._page_of_key[self._key_of_page.pop(page)]
            del self._serial_of_page[page]
        else:
            return None
        self.references[page] = 1
        return page

    def share(self, page: int) -> None:
        """Add a reference to a held or idle page."""
        if self.references[page] == 0:
            del self._idle[page]
        self.references[page] += 1

    def release(self, page: int) -> None:
        """Drop a reference; the last one makes the page idle (if it is an indexed prefix) or free."""
        assert self.references[page] > 0, f"page {page} released more often than taken"
        self.references[page] -= 1
        if self.references[page] > 0:
            return
        if page in self._key_of_page:
            self._idle[page] = None
        else:
            self._free.append(page)

    def index_prefix(self, pages: Sequence[int], token_ids: Sequence[int], num_committed: int) -> None:
        """Offer a sequence's full pages to later prompts.

        Args:
            pages: the sequence's pages in order of position.
            token_ids: the prompt, with its completion or without.
            num_committed: how many of its positions have final AR keys and values.
        """
        parent = 0
        for index in range(min(num_committed, len(token_ids)) // self.page_size):
            key = self._key(parent, token_ids, index)
            page = self._page_of_key.get(key)
            if page is None:
                page = pages[index]
                if page in self._key_of_page:
                    return
                self._page_of_key[key] = page
                self._key_of_page[page] = key
                self._serial_of_page[page] = next(self._serials)
            parent = self._serial_of_page[page]

    def match_prefix(self, token_ids: Sequence[int]) -> list[int]:
        """Take references to the pages that already hold the beginning of a prompt.

        The page of the last prompt token is never matched: that token's row must run to give the first
        logits.
        """
        pages: list[int] = []
        parent = 0
        for index in range((len(token_ids) - 1) // self.page_size):
            page = self._page_of_key.get(self._key(parent, token_ids, index))
            if page is None:
                break
            self.share(page)
            pages.append(page)
            parent = self._serial_of_page[page]
        return pages

    def shuffle(self, source: random.Random) -> None:
        """Give free pages out in another order, as after much traffic."""
        source.shuffle(self._free)

    def forget_prefixes(self) -> None:
        """Make later prompts match nothing of earlier ones; idle pages become free."""
        self._free += self._idle
        self._idle.clear()
        for index in (self._page_of_key, self._key_of_page, self._serial_of_page):
            index.clear()

    def _key(self, parent: int, token_ids: Sequence[int], index: int) -> PrefixKey:
        """A page's contents: the serial of the page before it and its own tokens."""
        start = index * self.page_size
        return parent, tuple(token_ids[start : start + self.page_size])


class KVCache:
    """Keys and values of every layer; the attention backend says how a page is laid out.

    Consensus and AR decoding use the same cells: the draft pass writes where the verify pass will overwrite.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        key_shape: tuple[int, ...],
        value_shape: tuple[int, ...],
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        """Args: both shapes are a layer's and begin with the number of pages."""
        self.page_size = page_size
        self.keys = [torch.zeros(key_shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(value_shape, dtype=dtype, device=device) for _ in range(num_layers)]

    @property
    def bytes_per_token(self) -> int:
        """Cache bytes of one position over all layers, the same for both views."""
        pages = (tensor[0] for tensor in (*self.keys, *self.values))
        return sum(page.numel() * page.element_size() for page in pages) // self.page_size

    def erase(self, pages: Sequence[int]) -> None:
        """Fill pages with zeros: NaN left in a cell that is not seen yet would still reach a weighted sum."""
        for tensor in (*self.keys, *self.values):
            tensor[list(pages)] = 0


def copy_pages(tensors: Sequence[Tensor], sources: Tensor, targets: Tensor) -> None:
    """Copy whole pages of a layer's keys and values, (B,) int64 each; no page is both."""
    for tensor in tensors:
        tensor.index_copy_(0, targets, tensor.index_select(0, sources))


class PageTables:
    """Which pages each sequence slot holds, in order of position.

    Behind the slots come lines for *branches*: a branch sees a slot's cells up to a position and has cells of
    its own from there on, in pages that belong to no pool.

    Attributes:
        pages: (slots and branches, pages per sequence) int64; entries of a slot past `num_held[slot]` are the
            scratch page.
        num_held: (slots,) int64, pages of each slot.
        num_branches: lines behind the slots.
        cells_per_branch: that a branch has of its own, at least.
        num_pages: of the pool and of the branches together.
    """

    def __init__(
        self,
        pool: PagePool,
        *,
        num_slots: int,
        pages_per_sequence: int,
        num_branches: int = 0,
        cells_per_branch: int = 1,
    ):
        self.pool = pool
        self.pages = np.full((num_slots + num_branches, pages_per_sequence), SCRATCH_PAGE, dtype=np.int64)
        self.num_held = np.zeros(num_slots, dtype=np.int64)
        self.num_branches = num_branches
        self.cells_per_branch = cells_per_branch
        each = -(-(pool.page_size - 1 + cells_per_branch) // pool.page_size)  # wherever in a page it begins
        self._own_pages = pool.num_pages + np.arange(num_branches * each).reshape(num_branches, each)
        self.num_pages = pool.num_pages + num_branches * each
        self._changed: set[int] = set()

    def branch(self, slots: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let the first B branches begin at positions of slots.

        Args:
            slots: (B,) int64, at most `num_branches`.
            positions: (B,) int64, a cell of the slot each: the first one of the branch's own.
        Returns:
            (B,) int64, the lines of the branches, and (2, B) int64, pages to copy, from and to, before a
            branch is read: those that it shares with its slot in part.
        """
        count, each = len(slots), self._own_pages.shape[1]
        lines = len(self.num_held) + np.arange(count)
        first = positions // self.pool.page_size
        copies = np.stack([self.pages[slots, first], self._own_pages[:count, 0]])
        self.pages[lines] = self.pages[slots]
        columns = first[:, None] + np.arange(each)
        is_there = columns < self.pages.shape[1]
        branches, _ = np.nonzero(is_there)
        self.pages[lines[branches], columns[is_there]] = self._own_pages[:count][is_there]
        self._changed.update(lines.tolist())
        return lines, copies

    @property
    def changed(self) -> np.ndarray:
        """The lines (N,) int64 whose pages are others than when they were last taken."""
        return np.array(sorted(self._changed), dtype=np.int64)

    def take_changed(self) -> np.ndarray:
        """Return `changed`, which is empty then."""
        lines = self.changed
        self._changed.clear()
        return lines

    def copy_lines(self, lines: np.ndarray, pages: np.ndarray) -> None:
        """Take over lines (N,) int64 of other page tables, (N, pages per sequence) int64."""
        self.pages[lines] = pages
        self._changed.update(lines.tolist())

    def adopt(self, slot: int, pages: Sequence[int]) -> None:
        """Start an empty slot with pages whose references the caller already took."""
        assert self.num_held[slot] == 0, f"slot {slot} still holds pages"
        self.pages[slot, : len(pages)] = pages
        self.num_held[slot] = len(pages)
        self._changed.add(slot)

    def grow(self, slot: int, num_cells: int) -> int:
        """Take pages until the slot has `num_cells` cells or the pool is empty.

        Returns:
            Cells the slot has now: at least `num_cells`, or fewer when pages ran out.
        """
        held, page_size = int(self.num_held[slot]), self.pool.page_size
        while held * page_size < num_cells and (page := self.pool.take()) is not None:
            self.pages[slot, held] = page
            held += 1
        if held != self.num_held[slot]:
            self.num_held[slot] = held
            self._changed.add(int(slot))
        return held * page_size

    def grow_all(self, slots: np.ndarray, num_cells: np.ndarray) -> np.ndarray:
        """Let slots (S,) grow, the first ones first; return (S,) int64 cells of each, see `grow`."""
        cells = self.num_held[slots] * self.pool.page_size
        for line in np.flatnonzero(cells < num_cells).tolist():
            cells[line] = self.grow(slots[line], num_cells[line])
        return cells

    def held(self, slot: int) -> list[int]:
        """Return the slot's pages in order of position."""
        return self.pages[slot, : self.num_held[slot]].tolist()

    def clear(self, slot: int) -> None:
        """Give all pages of a slot back, the last ones first, so that prefixes lose their ends first."""
        for page in reversed(self.held(slot)):
            self.pool.release(page)
        self.pages[slot] = SCRATCH_PAGE
        self.num_held[slot] = 0
        self._changed.add(slot)
