"""One forward of either view over T token rows."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend, PagedAttend
from orthrus_core.attention.choose import Choice, choose_backend, spec_of
from orthrus_core.attention.rows import RowBuffer, Span, Spans, TokenRows, fill, span_rows
from orthrus_core.attention.view import VIEWS, View
from orthrus_core.cache import PageTables
from orthrus_core.compilation.compiled import mark_budget_dynamic, mark_rows_dynamic
from orthrus_core.compilation.graphs import ForwardGraphs
from orthrus_core.errors import ConfigError
from orthrus_core.models.experts import make_experts_row_wise
from orthrus_core.models.model import OrthrusLM
from orthrus_core.models.readout import Hidden, Readout, read_out
from orthrus_core.transfer import to_device

logger = logging.getLogger(__name__)

FIRST_BUDGET = 16  # T of the first compiled forward; it could be any

Forward = Callable[..., Any]


class ModelRunner:
    """Runs spans of sequences through the model, always T rows at a time.

    Attributes:
        tables: page tables of the sequences.
        backend: does the attention.
        cache: holds the keys and values.
        is_compiled: whether forwards go through torch.compile.
    """

    def __init__(
        self,
        model: OrthrusLM,
        tables: PageTables,
        *,
        backend: AttentionBackend | None = None,
        attention: Choice = "auto",
    ):
        """Allocate the cache.

        Args:
            tables: page tables of the sequences; their pool says how many pages there are.
            backend: None: the one that `attention` says, see `choose_backend`.
        """
        if not make_experts_row_wise(model):
            logger.warning("its experts compute rows in groups: text may depend on the batch")
        assert model.config.mask_token_id is not None, "DualViewConfig.check_head sees to it"
        self.mask_token_id = model.config.mask_token_id
        self.device = model.device
        pool = tables.pool
        self.backend = backend or choose_backend(
            spec_of(
                model.config,
                page_size=pool.page_size,
                max_context=tables.pages.shape[1] * pool.page_size,
                device=model.device,
                dtype=model.dtype,
            ),
            attention,
        )
        self.cache = self.backend.new_cache(
            num_layers=model.config.num_hidden_layers,
            num_pages=pool.num_pages,
            page_size=pool.page_size,
            device=model.device,
        )
        self.tables = tables
        self._page_tables = torch.from_numpy(tables.pages).to(self.device)
        self._buffers: dict[tuple[View, int], RowBuffer] = {}
        self._graphs = ForwardGraphs(self.device)
        self._states: dict[tuple[str, int], Tensor] = {}  # (R, D) that the graphs of the head read
        self.use(model)

    def use(self, model: OrthrusLM) -> None:
        """Run this model from now on, eagerly: the one given at first, or what computes it another way."""
        self.model, self.is_compiled = model, False
        self._forwards = {view: self._new_forward(view) for view in VIEWS}
        self._head: Forward = self._new_head()
        self._graphs.clear()  # they hold the forwards of before

    def lay_out(
        self,
        spans: Sequence[Span] | Spans,
        view: View,
        *,
        token_budget: int,
        choosing: np.ndarray | None = None,
    ) -> TokenRows:
        """Arrange spans as T rows; they last until this view's rows of this T are laid out again.

        Args:
            token_budget: T.
            choosing: (R,) int64, the rows to read out, any of them more than once; None: all T.
        """
        T = token_budget
        buffer = self._buffers.get((view, T))
        if buffer is None:
            buffer = self._buffers[view, T] = RowBuffer(T, self.device)
        rows = span_rows(
            spans, view=view, page_tables=self.tables.pages, page_size=self.tables.pool.page_size
        )
        num_used = fill(buffer, rows)
        return TokenRows(
            buffer.to_device(),
            num_used,
            self.backend.arrange(rows, T, self.device),
            None if choosing is None else to_device(choosing, self.device),
        )

    def run(self, rows: TokenRows, view: View) -> Readout:
        """Run one view over the rows, writing their K/V, and read out those that choose; see `forward`."""
        return self.read(rows, self.forward(rows, view), view)

    @torch.inference_mode()
    def forward(self, rows: TokenRows, view: View) -> Hidden:
        """Run the layers of one view over all rows, writing their K/V.

        Raises:
            ConfigError: under torch.autocast, whose casts would make another model than the one loaded, in
                dtypes that the cache does not have.
        """
        if torch.is_autocast_enabled(self.device.type):
            raise ConfigError(
                f"the engine runs a model in its own dtype, {self.model.dtype}: leave torch.autocast, "
                "and load the model with dtype=... for another"
            )
        self._send_page_tables()
        if self.is_compiled:
            mark_budget_dynamic(rows.packed, rows.arrangement)
        forward, arguments = self._forwards[view], (rows.packed, self._page_tables, rows.arrangement)
        if self._has_graphs:
            T = rows.packed.shape[1]
            return Hidden(*self._graphs.replay(view, T, lambda: forward(*arguments)))
        return Hidden(*forward(*arguments))

    @torch.inference_mode()
    def read(self, rows: TokenRows, hidden: Hidden, view: View) -> Readout:
        """Read out the rows that choose.

        The output head has a budget R of its own: it takes most of a forward's memory, and rows of prompts
        choose nothing.
        """
        states = rows.chosen(hidden.states)
        if self.is_compiled:
            mark_rows_dynamic(states)
        if self._has_graphs:
            key = f"{view} head", len(states)
            if key not in self._states:
                self._states[key] = torch.empty_like(states)
            states = self._states[key].copy_(states)  # a graph reads the same place every time
            return Readout(*self._graphs.replay(*key, lambda: self._head(states)))
        return Readout(*self._head(states))

    @property
    def _has_graphs(self) -> bool:
        return self.device.type == "cuda" and self.backend.has_static_shapes

    def replace_forwards(self, replace: Callable[[Forward], Forward], views: Sequence[View]) -> None:
        """Run the forwards of some views through what `replace` makes of them, or as before if that fails."""
        eager, eager_head = self._forwards, self._head
        self._forwards = eager | {view: replace(eager[view]) for view in views}
        self._head = replace(eager_head)
        self._graphs.clear()
        try:
            self.is_compiled = True
            for view in views:
                self.run(self.lay_out([Span(0, 0, [0])], view, token_budget=FIRST_BUDGET), view)
        except Exception:
            self._forwards, self._head, self.is_compiled = eager, eager_head, False
            raise

    def _send_page_tables(self) -> None:
        """Bring the lines that changed to the device; on a CPU it reads the tables themselves."""
        slots = self.tables.take_changed()
        if len(slots) and self.device.type != "cpu":
            pages = to_device(self.tables.pages[slots], self.device)
            self._page_tables.index_copy_(0, to_device(slots, self.device), pages)

    def _new_forward(self, view: View) -> Forward:
        def forward(packed: Tensor, page_tables: Tensor, arrangement: Any) -> Hidden:
            attend = PagedAttend(self.backend, self.cache, packed, page_tables, arrangement)
            states = self.model.hidden_states(packed[None, 0], packed[None, 4], view=view, attend=attend)[0]
            return Hidden(states, states.sum(-1, dtype=torch.float32))

        return forward

    def _new_head(self) -> Forward:
        def head(states: Tensor) -> Readout:
            return read_out(self.model.logits(states))

        return head
