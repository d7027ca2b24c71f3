"""One forward of either view over T token rows."""

import logging
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend, choose_backend
from orthrus_core.attention.paged import PagedAttend
from orthrus_core.attention.rows import TokenRows
from orthrus_core.cache import PageTables
from orthrus_core.decoding.choice import Readout, read_out
from orthrus_core.decoding.compiler import get_compiler_ready
from orthrus_core.decoding.graphs import GraphedForward
from orthrus_core.decoding.rows import RowBuffer, Span, fill, span_rows
from orthrus_core.errors import ConfigError
from orthrus_core.models.attention import View
from orthrus_core.models.experts import make_experts_row_wise
from orthrus_core.models.model import OrthrusLM

logger = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor, Any], Readout]
VIEWS: tuple[View, ...] = ("ar", "diffusion")
COMPILED_WITH = 16  # T of the first compiled forward; it could be any


class ModelRunner:
    """Runs spans of sequences through the model, always T rows at a time.

    Attributes:
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
    ):
        """Allocate the cache.

        Args:
            tables: page tables of the sequences; their pool says how many pages there are.
            backend: None: the fastest that model and machine can have.
        """
        self.model = model
        if not make_experts_row_wise(model):
            logger.warning("its experts compute rows in groups: text may depend on the batch")
        self.device = model.device
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
        self.is_compiled = False
        self._forwards = {view: self._new_forward(view) for view in VIEWS}

    def lay_out(self, spans: Sequence[Span], view: View, *, token_budget: int) -> TokenRows:
        """Arrange spans as T rows; they last until this view's rows of this T are laid out again.

        Args:
            token_budget: T.
        """
        T = token_budget
        buffer = self._buffers.get((view, T))
        if buffer is None:
            buffer = self._buffers[view, T] = RowBuffer(T, self.device)
        rows = span_rows(
            spans, view=view, page_tables=self._tables.pages, page_size=self._tables.pool.page_size
        )
        num_used = fill(buffer, spans, rows)
        return TokenRows(buffer.to_device(), num_used, self.backend.arrange(rows, T, self.device))

    @torch.inference_mode()
    def run(self, rows: TokenRows, view: View) -> Readout:
        """Run one view over the rows, writing their K/V.

        Raises:
            ConfigError: under torch.autocast, whose casts would make another model than the one loaded, in
                dtypes that the cache does not have.
        """
        if torch.is_autocast_enabled(self.device.type):
            raise ConfigError(
                f"the engine runs a model in its own dtype, {self.model.dtype}: leave torch.autocast, "
                "and load the model with dtype=... for another"
            )
        if self.device.type != "cpu":
            self._page_tables.copy_(torch.from_numpy(self._tables.pages))
        if self.is_compiled:
            torch._dynamo.mark_dynamic(rows.packed, 1)
            if isinstance(rows.arrangement, Tensor):  # a plan, whose length depends on T
                torch._dynamo.mark_dynamic(rows.arrangement, 0)
        if self.device.type == "cuda" and self.backend.has_static_shapes:
            return self._replay(rows, view)
        return self._forwards[view](rows.packed, self._page_tables, rows.arrangement)

    def _replay(self, rows: TokenRows, view: View) -> Readout:
        """Run one view's CUDA graph of T rows: its rows, page tables and arrangement lie in fixed buffers."""
        T = rows.packed.shape[1]
        if (view, T) not in self._graphs:
            forward, arguments = self._forwards[view], (rows.packed, self._page_tables, rows.arrangement)
            self._graphs[view, T] = GraphedForward(
                lambda: forward(*arguments),
                device=self.device,
                pool=next((graph.pool for graph in self._graphs.values()), None),
                outputs=self._new_readout(view, T),
            )
        return Readout(*self._graphs[view, T].replay())

    def _new_readout(self, view: View, T: int) -> Readout:
        ids = torch.empty(T, dtype=torch.int64, device=self.device)
        gaps, logprobs, logsumexp = torch.empty(3, T, device=self.device)
        return Readout(self._logits_for(view, T), ids, gaps, logprobs, logsumexp)

    def _logits_for(self, view: View, T: int) -> Tensor:
        """Return (T, V) of one buffer per view, which the graphs of all T share; it grows where it must."""
        if view not in self._logits or len(self._logits[view]) < T:
            rows = max(T, *map(len, self._logits.values()), 0)
            self._logits[view] = torch.empty(
                rows, self.model.config.vocab_size, dtype=self.model.dtype, device=self.device
            )
        return self._logits[view][:T]

    def compile(self, views: Sequence[View] = VIEWS) -> bool:
        """Send views through torch.compile, for every T at once; whether it worked.

        Takes seconds to minutes the first time on a machine, less afterwards: torch keeps what it made. Where
        it fails, forwards stay eager and a warning says why.
        """
        if not self.backend.has_static_shapes:
            logger.warning("compile=off: %s attention has no static shapes", self.backend.name)
            return False
        eager = self._forwards
        started_at = time.perf_counter()
        get_compiler_ready()
        try:
            self._forwards = eager | {view: _compiled(eager[view]) for view in views}
            self.is_compiled = True
            self._graphs.clear()  # they hold the eager forwards
            for view in views:
                self.run(self.lay_out([Span(0, 0, [0])], view, token_budget=COMPILED_WITH), view)
        except Exception as error:  # whatever the compiler or its toolchain raises
            self._forwards, self.is_compiled = eager, False
            reason = str(error).strip().splitlines() or [type(error).__name__]
            logger.warning("compile=off: torch.compile failed: %s", reason[0])
            return False
        logger.info("compiled views seconds=%.1f", time.perf_counter() - started_at)
        return True

    def _new_forward(self, view: View) -> Forward:
        def forward(packed: Tensor, page_tables: Tensor, arrangement: Any) -> Readout:
            return self._run_model(view, packed, page_tables, arrangement)

        return forward

    def _run_model(self, view: View, packed: Tensor, page_tables: Tensor, arrangement: Any) -> Readout:
        attend = PagedAttend(self.backend, self.cache, packed, page_tables, arrangement)
        hidden = self.model.hidden_states(packed[None, 0], packed[None, 4], view=view, attend=attend)
        return read_out(self.model.logits(hidden[0]))


def _compiled(function: Forward) -> Forward:
    """Return the function behind torch.compile, without guards.

    None is needed, since only T ever changes and it is dynamic; checking them cost 0.5 ms a call (demo
    model). But compiled graphs are found by code object and guards, so that every runner and view needs a
    code object of its own.
    """
    own_copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(
        own_copy, fullgraph=True, options={"guard_filter_fn": _drop_all, "size_asserts": False}
    )


def _drop_all(guards: Sequence[Any]) -> list[bool]:
    return [False] * len(guards)
