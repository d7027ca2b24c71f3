"""One forward of either view over T token rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from orthrus_core.attention.paged import PagedAttend
from orthrus_core.cache import KVCache, PageTables
from orthrus_core.decoding.rows import AttentionShapes, Span, TokenRows, lay_out
from orthrus_core.models.attention import View
from orthrus_core.models.model import OrthrusLM

NO_MASK = {"full_attention": None, "sliding_attention": None}


class ModelRunner:
    """Runs spans of sequences through the model, always T rows at a time.

    Attributes:
        shapes: sizes that attention may run in; the self-check removes those that do not agree.
    """

    def __init__(self, model: OrthrusLM, cache: KVCache, tables: PageTables, *, token_budget: int):
        self.model = model
        self.device = model.device
        self.token_budget = token_budget
        self.shapes = AttentionShapes()
        self._cache = cache
        self._tables = tables

    def lay_out(self, spans: Sequence[Span], view: View, *, token_budget: int | None = None) -> TokenRows:
        """Arrange spans as T rows (host work only); token_budget None: the largest T."""
        return lay_out(
            spans,
            view=view,
            token_budget=token_budget or self.token_budget,
            page_tables=self._tables.pages,
            page_size=self._cache.page_size,
            shapes=self.shapes,
            device=self.device,
        )

    @torch.inference_mode()
    def run(self, rows: TokenRows, view: View) -> Tensor:
        """Run one view over the rows, writing their K/V; return the logits (T, V)."""
        hidden = self.model.model(
            input_ids=rows.token_ids[None],
            position_ids=rows.positions[None],
            attention_mask=NO_MASK,
            use_cache=False,
            view=view,
            attend=PagedAttend(self._cache, rows),
        ).last_hidden_state
        return self.model.lm_head(hidden[0])
