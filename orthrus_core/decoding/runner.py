"""One forward of either view over T token rows."""

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend, choose_backend
from orthrus_core.attention.paged import PagedAttend
from orthrus_core.attention.rows import TokenRows
from orthrus_core.cache import PageTables
from orthrus_core.decoding.graphs import GraphedForward
from orthrus_core.decoding.rows import RowBuffer, Span, fill, span_rows
from orthrus_core.models.attention import View
from orthrus_core.models.model import OrthrusLM

VIEWS: tuple[View, ...] = ("ar", "diffusion")
NO_MASK = {"full_attention": None, "sliding_attention": None}


class ModelRunner:
    """Runs spans of sequences through the model, always T rows at a time.

    Attributes:
        backend: does the attention.
        cache: holds the keys and values.
        token_budget: T where a call names no other.
    """

    def __init__(
        self,
        model: OrthrusLM,
        tables: PageTables,
        *,
        token_budget: int,
        backend: AttentionBackend | None = None,
        compiled: bool = False,
    ):
        """Allocate the cache.

        Args:
            tables: page tables of the sequences; their pool says how many pages there are.
            backend: None: the fastest that model and machine can have.
            compiled: whether the forward goes through torch.compile, once per view, for every T.
        """
        self.model = model
        self.device = model.device
        self.token_budget = token_budget
        pool = tables.pool
        self.backend = backend or choose_backend(
            model.config,
            page_size=pool.page_size,
            max_context=tables.pages.shape[1] * pool.page_size,
            device=model.device,
            dtype=model.dtype,
        )
        self.cache = self.backend.new_cache(
            num_layers=model.config.num_hidden_layers,
            num_pages=pool.num_pages,
            page_size=pool.page_size,
            device=model.device,
        )
        self._tables = tables
        self._page_tables = torch.from_numpy(tables.pages).to(self.device)
        self._buffers: dict[tuple[View, int], RowBuffer] = {}
        self._graphs: dict[tuple[View, int], GraphedForward] = {}
        self._logits: dict[View, Tensor] = {}
        self.is_compiled = compiled
        self._forwards = {view: self._new_forward(view, compiled=compiled) for view in VIEWS}

    def lay_out(self, spans: Sequence[Span], view: View, *, token_budget: int | None = None) -> TokenRows:
        """Arrange spans as T rows; they last until this view's rows of this T are laid out again.

        Args:
            token_budget: T; None: the runner's own.
        """
        T = token_budget or self.token_budget
        buffer = self._buffers.get((view, T))
        if buffer is None:
            buffer = self._buffers[view, T] = RowBuffer(T, self.device)
        rows = span_rows(
            spans, view=view, page_tables=self._tables.pages, page_size=self._tables.pool.page_size
        )
        num_used = fill(buffer, spans, rows)
        return TokenRows(buffer.to_device(), num_used, self.backend.arrange(rows, T, self.device))

    @torch.inference_mode()
    def run(self, rows: TokenRows, view: View) -> Tensor:
        """Run one view over the rows, writing their K/V; return the logits (T, V)."""
        if self.device.type != "cpu":
            self._page_tables.copy_(torch.from_numpy(self._tables.pages))
        if self.is_compiled:
            torch._dynamo.mark_dynamic(rows.packed, 1)
            if isinstance(rows.arrangement, Tensor):  # a plan, whose length depends on T
                torch._dynamo.mark_dynamic(rows.arrangement, 0)
        if self.device.type == "cuda" and self.backend.has_static_shapes:
            return self._replay(rows, view)
        return self._forwards[view](rows.packed, self._page_tables, rows.arrangement)

    def _replay(self, rows: TokenRows, view: View) -> Tensor:
        """Run one view's CUDA graph of T rows: its rows, page tables and arrangement lie in fixed buffers."""
        T = rows.packed.shape[1]
        if (view, T) not in self._graphs:
            forward, arguments = self._forwards[view], (rows.packed, self._page_tables, rows.arrangement)
            self._graphs[view, T] = GraphedForward(
                lambda: (forward(*arguments),),
                device=self.device,
                pool=next((graph.pool for graph in self._graphs.values()), None),
                outputs=(self._logits_for(view, T),),
            )
        return self._graphs[view, T].replay()[0]

    def _logits_for(self, view: View, T: int) -> Tensor:
        """Return (T, V) of one buffer per view, which the graphs of all T share; it grows where it must."""
        if view not in self._logits or len(self._logits[view]) < T:
            shape = (max(T, self.token_budget), self.model.config.vocab_size)
            self._logits[view] = torch.empty(shape, dtype=self.model.dtype, device=self.device)
        return self._logits[view][:T]

    def _new_forward(self, view: View, *, compiled: bool) -> Callable[[Tensor, Tensor, Any], Tensor]:
        def forward(packed: Tensor, page_tables: Tensor, arrangement: Any) -> Tensor:
            return self._run_model(view, packed, page_tables, arrangement)

        if not compiled:
            return forward
        # only T ever changes, and it is dynamic: checking guards would cost 0.5 ms a call (demo model)
        return torch.compile(_own_copy(forward), fullgraph=True, options={"guard_filter_fn": _drop_all})

    def _run_model(self, view: View, packed: Tensor, page_tables: Tensor, arrangement: Any) -> Tensor:
        hidden = self.model.model(
            input_ids=packed[None, 0],
            position_ids=packed[None, 4],
            attention_mask=NO_MASK,
            use_cache=False,
            view=view,
            attend=PagedAttend(self.backend, self.cache, packed, page_tables, arrangement),
        ).last_hidden_state
        return self.model.lm_head(hidden[0])


def _own_copy(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function with a code object of its own: compiled graphs are found by it, and by guards."""
    return types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _drop_all(guards: Sequence[Any]) -> list[bool]:
    return [False] * len(guards)
