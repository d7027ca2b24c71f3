"""One forward of either view over T token rows."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend, PagedAttend
from orthrus_core.attention.choose import choose_backend, spec_of
from orthrus_core.attention.rows import RowBuffer, Span, TokenRows, fill, span_rows
from orthrus_core.attention.view import VIEWS, View
from orthrus_core.cache import PageTables
from orthrus_core.compilation.compiled import compiled, mark_budget_dynamic
from orthrus_core.compilation.compiler import get_compiler_ready
from orthrus_core.compilation.graphs import ForwardGraphs
from orthrus_core.errors import ConfigError
from orthrus_core.models.experts import make_experts_row_wise
from orthrus_core.models.model import OrthrusLM

logger = logging.getLogger(__name__)

COMPILED_WITH = 16  # T of the first compiled forward; it could be any


class Readout(NamedTuple):
    """What the rows of a forward say, on the device.

    Attributes:
        logits: (T, V), in the model's dtype.
        ids: (T,) int64, the lowest of the likeliest ids.
        gaps: (T,) float32, difference of the two largest logits.
        logprobs: (T,) float32, log-probability of `ids`: not finite where a row is broken, since a logit of
            NaN or +inf anywhere in it makes its log-probability NaN or infinite.
        logsumexp: (T,) float32.
    """

    logits: Tensor
    ids: Tensor
    gaps: Tensor
    logprobs: Tensor
    logsumexp: Tensor


def read_out(logits: Tensor) -> Readout:
    """Read logits (T, V) of any float dtype out, in float32."""
    exact = logits.float()
    top, ids = exact.max(dim=-1)
    second = exact.scatter(1, ids[:, None], float("-inf")).amax(dim=-1)
    logsumexp = exact.logsumexp(dim=-1)
    return Readout(logits, ids, top - second, top - logsumexp, logsumexp)


Forward = Callable[[Tensor, Tensor, Any], Readout]


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
    ):
        """Allocate the cache.

        Args:
            tables: page tables of the sequences; their pool says how many pages there are.
            backend: None: the fastest that model and machine can have.
        """
        self.model = model
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
            )
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
            spans, view=view, page_tables=self.tables.pages, page_size=self.tables.pool.page_size
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
            self._page_tables.copy_(torch.from_numpy(self.tables.pages))
        if self.is_compiled:
            mark_budget_dynamic(rows.packed, rows.arrangement)
        forward, arguments = self._forwards[view], (rows.packed, self._page_tables, rows.arrangement)
        if self.device.type == "cuda" and self.backend.has_static_shapes:
            T = rows.packed.shape[1]
            return Readout(*self._graphs.replay(view, T, lambda: forward(*arguments)))
        return forward(*arguments)

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
            self._forwards = eager | {view: compiled(eager[view]) for view in views}
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
