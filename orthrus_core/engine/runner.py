"""One forward of either view over T token rows."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend, PagedAttend
from orthrus_core.attention.choose import Choice, choose_backend, spec_of
from orthrus_core.attention.rows import RowBuffer, Span, Spans, TokenRows, fill, span_rows
from orthrus_core.attention.view import VIEWS, BothViews, View
from orthrus_core.cache import SCRATCH_PAGE, PageTables
from orthrus_core.compilation.by_layer import with_compiled_layers
from orthrus_core.compilation.compiled import compiled, mark_budget_dynamic, mark_rows_dynamic
from orthrus_core.compilation.graphs import ForwardGraphs
from orthrus_core.errors import ConfigError
from orthrus_core.linear.backend import LinearBackend, PlainLinear
from orthrus_core.models.experts import make_experts_row_wise
from orthrus_core.models.linears import with_kernels
from orthrus_core.models.model import OrthrusLM
from orthrus_core.models.readout import Hidden, Readout, read_out
from orthrus_core.transfer import stage, to_device

logger = logging.getLogger(__name__)

FIRST_BUDGET = 19  # T of the first compiled forward; it could be any that is no size of a model
FIRST_BLOCK_ROWS, FIRST_COPIES = 24, 3  # likewise, but the compiler takes equal sizes for one and the same

Kind = View | Literal["both"]
KINDS: tuple[Kind, ...] = (*VIEWS, "both")

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
        self._refuse_other_device()
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
            num_pages=tables.num_pages,
        )
        self.tables = tables
        self._page_tables = torch.from_numpy(tables.pages).to(self.device)
        self._buffers: dict[tuple[View, int], RowBuffer] = {}
        most_copies = max(tables.num_branches, FIRST_COPIES)
        self._copies = torch.zeros(2, most_copies, dtype=torch.int64, device=self.device)
        self._graphs = ForwardGraphs(self.device)
        self._states: dict[
            tuple[str, tuple[int, ...]], Tensor
        ] = {}  # (R, D) that the graphs of the head read
        self.use(model)

    def use(self, model: OrthrusLM, linear: LinearBackend | None = None) -> None:
        """Run a model from now on, eagerly.

        Args:
            model: the one given at first; it is not changed.
            linear: what its linear layers go through; None: they stay as they are, as for torch's own.
        """
        self.model, self.is_compiled = model, False
        linear = linear or PlainLinear()
        if linear.name != PlainLinear.name or self.device.type == "cpu":
            self.model = with_kernels(model, linear)
        self._forwards: dict[Kind, Forward] = {kind: self._new_forward(kind, self.model) for kind in KINDS}
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
            self.backend.arrange(rows, T),
            None if choosing is None else to_device(choosing, self.device),
        )

    def run(self, rows: TokenRows, view: View) -> Readout:
        """Run one view over the rows, writing their K/V, and read out those that choose; see `forward`."""
        return self.read(rows, self.forward(rows, view), view)

    def forward(self, rows: TokenRows, view: View) -> Hidden:
        """Run the layers of one view over all rows, writing their K/V.

        Raises:
            ConfigError: under torch.autocast, whose casts would make another model than the one loaded, in
                dtypes that the cache does not have.
        """
        self._refuse_autocast()
        return self.run_layers(view, [rows])

    def forward_both(self, ar: TokenRows, blocks: TokenRows, copies: np.ndarray) -> Hidden:
        """Run the layers of both views in one forward: AR rows, then blocks that see what these write.

        Args:
            ar: laid out for the AR view.
            blocks: laid out for the diffusion view, their slots branches of the page tables.
            copies: as from `PageTables.branch`.
        Returns:
            Of the T rows of `ar`, then of those of `blocks`.
        Raises:
            ConfigError: as `forward` does.
        """
        self._refuse_autocast()
        if not self._has_graphs:
            return self.run_layers("both", [ar, blocks], to_device(copies, self.device))
        num_copies = copies.shape[1]  # a graph reads the same place every time, all of it
        self._copies[:, num_copies:] = SCRATCH_PAGE
        self._copies[:, :num_copies].copy_(stage(copies, self.device), non_blocking=True)
        return self.run_layers("both", [ar, blocks], self._copies)

    def _refuse_other_device(self) -> None:
        if self.device.type == "cuda" and self.device.index != torch.cuda.current_device():
            raise ConfigError(
                f"the engine runs on the current CUDA device, cuda:{torch.cuda.current_device()}, and the "
                f"model is on {self.device}: call torch.cuda.set_device({self.device.index}) first"
            )

    def _refuse_autocast(self) -> None:
        if torch.is_autocast_enabled(self.device.type):
            raise ConfigError(
                f"the engine runs a model in its own dtype, {self.model.dtype}: leave torch.autocast, "
                "and load the model with dtype=... for another"
            )

    @torch.inference_mode()
    def run_layers(self, kind: Kind, parts: Sequence[TokenRows], *copies: Tensor) -> Hidden:
        """Run the layers over the rows of one view or of both; see `forward` and `forward_both`."""
        self._send_page_tables()
        rows = [one for part in parts for one in (part.packed, part.arrangement)]
        if self.is_compiled:
            mark_budget_dynamic(*((part.packed, part.arrangement) for part in parts), copies=copies)
        forward, arguments = self._forwards[kind], (self._page_tables, *copies, *rows)
        if self._has_graphs:
            shape = tuple(part.packed.shape[1] for part in parts)
            return Hidden(*self._graphs.replay(kind, shape, lambda: forward(*arguments)))
        return Hidden(*forward(*arguments))

    @torch.inference_mode()
    def read(self, rows: TokenRows, hidden: Hidden, view: View) -> Readout:
        """Read out the rows that choose.

        The output head has a budget R of its own: it takes most of a forward's memory, and rows of prompts
        choose nothing.
        """
        return self._read(rows.chosen(hidden.states), view)

    @torch.inference_mode()
    def read_both(self, ar: TokenRows, hidden: Hidden) -> Readout:
        """Read out the AR rows that choose, and behind them all rows of blocks.

        Args:
            ar: as in `forward_both`, which `hidden` is from.
        """
        T = ar.packed.shape[1]
        return self._read(torch.cat([ar.chosen(hidden.states[:T]), hidden.states[T:]]), "both")

    def _read(self, states: Tensor, kind: Kind) -> Readout:
        if self.is_compiled:
            mark_rows_dynamic(states)
        if self._has_graphs:
            key = f"{kind} head", (len(states),)
            if key not in self._states:
                self._states[key] = torch.empty_like(states)
            states = self._states[key].copy_(states)  # a graph reads the same place every time
            return Readout(*self._graphs.replay(*key, lambda: self._head(states)))
        return Readout(*self._head(states))

    def erase(self, pages: Sequence[int]) -> None:
        """Fill pages of the cache with zeros."""
        self.cache.erase(pages)

    def close(self) -> None:
        """Run nothing any more."""

    @property
    def _has_graphs(self) -> bool:
        return self.device.type == "cuda" and self.backend.has_static_shapes

    def compile(self, kinds: Sequence[Kind], *, by_layer: bool) -> None:
        """Run some forwards through torch.compile, or as before if that fails.

        Args:
            by_layer: one graph for all layers that are alike, else one for each kind of forward.
        """
        eager, eager_head = self._forwards, self._head
        for kind in kinds:
            own = self._new_forward(kind, with_compiled_layers(self.model)) if by_layer else None
            self._forwards = self._forwards | {kind: own or compiled(eager[kind])}
        self._head = compiled(eager_head)
        self._graphs.clear()
        try:
            self.is_compiled = True
            for kind in kinds:
                self._try(kind)
        except Exception:
            self._forwards, self._head, self.is_compiled = eager, eager_head, False
            raise

    def _try(self, kind: Kind) -> None:
        """Run a forward of one row of each view that it has."""
        span = [Span(0, 0, [0])]
        if kind != "both":
            self.run(self.lay_out(span, kind, token_budget=FIRST_BUDGET), kind)
            return
        ar = self.lay_out(span, "ar", token_budget=FIRST_BUDGET)
        blocks = self.lay_out(span, "diffusion", token_budget=FIRST_BLOCK_ROWS)
        self.forward_both(ar, blocks, np.full((2, FIRST_COPIES), SCRATCH_PAGE))

    def _send_page_tables(self) -> None:
        """Bring the lines that changed to the device; on a CPU it reads the tables themselves."""
        slots = self.tables.take_changed()
        if len(slots) and self.device.type != "cpu":
            pages = to_device(self.tables.pages[slots], self.device)
            self._page_tables.index_copy_(0, to_device(slots, self.device), pages)

    def _new_forward(self, kind: Kind, model: OrthrusLM) -> Forward:
        return self._new_forward_of_both(model) if kind == "both" else self._new_forward_of(kind, model)

    def _new_forward_of(self, view: View, model: OrthrusLM) -> Forward:
        def forward(page_tables: Tensor, packed: Tensor, arrangement: Any) -> Hidden:
            attend = PagedAttend(self.backend, self.cache, packed, page_tables, arrangement)
            states = model.hidden_states(packed[None, 0], packed[None, 4], view=view, attend=attend)[0]
            return Hidden(states, states.sum(-1, dtype=torch.float32))

        return forward

    def _new_forward_of_both(self, model: OrthrusLM) -> Forward:
        def forward(
            page_tables: Tensor, copies: Tensor, ar: Tensor, ar_plan: Any, blocks: Tensor, blocks_plan: Any
        ) -> Hidden:
            attend = BothViews(
                ar.shape[1],
                PagedAttend(self.backend, self.cache, ar, page_tables, ar_plan),
                PagedAttend(self.backend, self.cache, blocks, page_tables, blocks_plan, copies),
            )
            token_ids, positions = (torch.cat([ar[line], blocks[line]])[None] for line in (0, 4))
            states = model.hidden_states(token_ids, positions, attend=attend)[0]
            return Hidden(states, states.sum(-1, dtype=torch.float32))

        return forward

    def _new_head(self) -> Forward:
        def head(states: Tensor) -> Readout:
            return read_out(self.model.logits(states))

        return head
