"""A runner without a model: a dict is the cache, a hash the language. It checks whatever it reads."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from orthrus_core import EngineConfig, OrthrusLM
from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.rows import LINES, RowBuffer, Spans, TokenRows, fill, span_rows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.models.readout import Hidden, Readout, read_out


def next_token(prefix: tuple[int, ...], vocab_size: int) -> int:
    """The fake language: every prefix has one continuation."""
    digest = hashlib.blake2b(repr(prefix).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % vocab_size


def continuation(prompt: list[int], count: int, vocab_size: int) -> list[int]:
    """What plain AR decoding of the fake language gives."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tuple(tokens), vocab_size))
    return tokens[len(prompt) :]


class FakeRunner:
    """Stands in for `ModelRunner`.

    Cells hold (position, token, view). An AR row must find the AR-view cells 0..p of its own sequence, or the
    test fails; it answers with the language's next token. A diffusion row proposes the right token unless
    `is_wrong` says otherwise, and leaves junk in its cell as the real one does.
    """

    def __init__(self, model: OrthrusLM, config: EngineConfig, is_wrong: Callable[[], bool]):
        self.model = model
        self.device = torch.device("cpu")
        self.mask_token_id = model.config.mask_token_id
        self.is_compiled = False
        self.rows_seen: list[int] = []
        self.budgets_seen: set[int] = set()
        self.tables = PageTables(
            PagePool(config.total_pages, config.page_size),
            num_slots=config.max_sequences,
            pages_per_sequence=config.pages_per_sequence,
            num_branches=4,
            cells_per_branch=config.block_size or model.config.block_size,
        )
        self.backend = PlainAttention(AttentionSpec(1, 1, 1, 1, 1, torch.float32, self.device))
        self.cache = self.backend.new_cache(num_layers=1, num_pages=1)
        self._page_size = config.page_size
        self._vocab_size = model.config.vocab_size
        self._is_wrong = is_wrong
        self._cells: dict[int, tuple[int, int, str]] = {}

    def lay_out(
        self, spans: Spans, view: str, *, token_budget: int, choosing: np.ndarray | None = None
    ) -> TokenRows:
        buffer = RowBuffer(token_budget, self.device)
        rows = span_rows(spans, view=view, page_tables=self.tables.pages, page_size=self._page_size)
        num_used = fill(buffer, rows)
        chosen = None if choosing is None else torch.from_numpy(choosing)
        return TokenRows(buffer.to_device(), num_used, choosing=chosen)

    def run(self, rows: TokenRows, view: str) -> Readout:
        return self.read(rows, self.forward(rows, view), view)

    def read(self, rows: TokenRows, hidden: Hidden, view: str) -> Readout:
        return read_out(rows.chosen(hidden.states))

    def forward(self, rows: TokenRows, view: str) -> Hidden:
        self.budgets_seen.add(len(rows.token_ids))
        self.rows_seen.append(rows.num_used)
        return self._answers(rows, view)

    def forward_both(self, ar: TokenRows, blocks: TokenRows, copies: np.ndarray) -> Hidden:
        self.budgets_seen.add(len(ar.token_ids) + len(blocks.token_ids))
        self.rows_seen.append(ar.num_used + blocks.num_used)
        first = self._answers(ar, "ar")
        for source, target in copies.T.tolist():
            for offset in range(self._page_size):
                self._cells[target * self._page_size + offset] = self._cells.get(
                    source * self._page_size + offset, (-1, -1, "nothing")
                )
        second = self._answers(blocks, "diffusion")
        return Hidden(torch.cat([first.states, second.states]), torch.cat([first.sums, second.sums]))

    def read_both(self, ar: TokenRows, hidden: Hidden) -> Readout:
        T = len(ar.token_ids)
        return read_out(torch.cat([ar.chosen(hidden.states[:T]), hidden.states[T:]]))

    def _answers(self, rows: TokenRows, view: str) -> Hidden:
        used, cells = range(rows.num_used), rows.packed[LINES.index("cells")].tolist()
        for row in used:
            cell = cells[row]
            assert cell >= self._page_size, "a used row writes to the scratch page"
            self._cells[cell] = (int(rows.positions[row]), int(rows.token_ids[row]), view)
        logits = torch.zeros(len(rows.token_ids), self._vocab_size)
        for row in used:
            logits[row, self._answer(rows, row, view)] = 1.0
        return Hidden(logits, logits.sum(-1))

    def _answer(self, rows: TokenRows, row: int, view: str) -> int:
        position = int(rows.positions[row])
        contents = self._visible(rows, row)
        if view == "ar":
            assert [(p, v) for p, _, v in contents] == [(p, "ar") for p in range(position + 1)]
            return next_token(tuple(token for _, token, _ in contents), self._vocab_size)
        anchor = next(index for index, (_, _, v) in enumerate(contents) if v == "diffusion")
        assert [(p, v) for p, _, v in contents[:anchor]] == [(p, "ar") for p in range(anchor)]
        assert all(v == "diffusion" for _, _, v in contents[anchor:])
        prefix = [token for _, token, _ in contents[: anchor + 1]]
        truth = continuation(prefix, position - anchor + 1, self._vocab_size)[-1]
        return (truth + 1) % self._vocab_size if self._is_wrong() else truth

    def _visible(self, rows: TokenRows, row: int) -> list[tuple[int, int, str]]:
        facts = dict(zip(LINES, rows.packed[:, row].tolist(), strict=True))
        pages = self.tables.pages[facts["slots"]].tolist()
        return [
            self._cells[pages[cell // self._page_size] * self._page_size + cell % self._page_size]
            for cell in range(facts["limits"] + 1)
        ]
