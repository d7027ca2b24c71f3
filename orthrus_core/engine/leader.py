"""One engine over several ranks: rank 0 has the scheduler, and tells the others what every forward runs.

The others hold a slice of the model and of the cache. They get the rows, the plan of attention and the lines
of the page tables that changed, once per forward, and run the same layers; tokens are chosen on rank 0 alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from orthrus_core.attention.choose import Choice
from orthrus_core.attention.rows import TokenRows
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import Kind, ModelRunner
from orthrus_core.errors import ConfigError, EngineError
from orthrus_core.linear.backend import LinearBackend, PlainLinear
from orthrus_core.linear.choose import linear_backends
from orthrus_core.models.model import OrthrusLM
from orthrus_core.models.readout import Hidden, Readout
from orthrus_core.ranks import Order, Ranks


class SliceRunner(ModelRunner):
    """Runs a slice of a model; without graphs, which would have to be captured on all ranks at once."""

    @property
    def _has_graphs(self) -> bool:
        return False


class LeadingRunner(SliceRunner):
    """Rank 0's runner: whatever it runs, the others run too."""

    def __init__(self, model: OrthrusLM, tables: PageTables, *, ranks: Ranks, attention: Choice = "auto"):
        """Allocate the cache, on every rank.

        Args:
            model: a slice, whose other parts `ranks` have; so are the other arguments of `ModelRunner`.
        Raises:
            ConfigError: this is another rank than 0.
        """
        if ranks.rank:
            raise ConfigError(f"an Engine is made on rank 0, this is rank {ranks.rank}: call follow(model)")
        self._ranks = ranks
        ranks.tell(
            "start",
            attention=attention,
            pool={"num_pages": tables.pool.num_pages, "page_size": tables.pool.page_size},
            tables={
                "num_slots": len(tables.num_held),
                "pages_per_sequence": tables.pages.shape[1],
                "num_branches": tables.num_branches,
                "cells_per_branch": tables.cells_per_branch,
            },
        )
        ranks.leader = self
        super().__init__(model, tables, attention=attention)

    def use(self, model: OrthrusLM, linear: LinearBackend | None = None) -> None:
        """See `ModelRunner.use`."""
        self._tell("use", linear=PlainLinear.name if linear is None else linear.name)
        super().use(model, linear)

    def run_layers(self, kind: Kind, parts: Sequence[TokenRows], *copies: Tensor) -> Hidden:
        """See `ModelRunner.run_layers`."""
        lines = self.tables.changed
        rows = [one for part in parts for one in (part.packed, part.arrangement) if one is not None]
        self._tell(
            "forward",
            [*map(torch.from_numpy, (lines, self.tables.pages[lines])), *copies, *rows],
            kind=kind,
            num_copies=len(copies),
            has_plans=parts[0].arrangement is not None,
        )
        return super().run_layers(kind, parts, *copies)

    def _read(self, states: Tensor, kind: Kind) -> Readout:
        self._tell("read", [states])
        return super()._read(states, kind)

    def erase(self, pages: Sequence[int]) -> None:
        """See `ModelRunner.erase`."""
        self._tell("erase", [torch.tensor(pages)])
        super().erase(pages)

    def close(self) -> None:
        """Let the other ranks go."""
        self._tell("stop")
        self._ranks.close()

    def _tell(self, name: str, tensors: Sequence[Tensor] = (), **facts: Any) -> None:
        if self._ranks.leader is not self:
            raise EngineError("the other ranks run a later engine by now: one at a time can be used")
        self._ranks.tell(name, tensors, **facts)


@torch.inference_mode()
def follow(model: OrthrusLM) -> None:
    """Run what rank 0 says, until its engine is closed.

    Args:
        model: the slice of a rank other than 0, as `load_slice` returned it.
    Raises:
        EngineError: another rank was lost.
    """
    ranks = model.ranks
    assert ranks is not None, "load_slice sets them"
    while (order := ranks.hear()).name != "stop":
        if order.name == "start":
            runner = _new_runner(model, order)
        elif order.name == "use":
            [backend] = linear_backends(
                order.facts["linear"], dtype=model.dtype, device_type=ranks.device.type
            )
            runner.use(model, backend)
        elif order.name == "forward":
            _run_forward(runner, order)
        elif order.name == "read":
            runner.model.lm_head(*order.tensors)
        elif order.name == "erase":
            runner.erase(order.tensors[0].tolist())
    ranks.close()


def _new_runner(model: OrthrusLM, order: Order) -> SliceRunner:
    tables = PageTables(PagePool(**order.facts["pool"]), **order.facts["tables"])
    return SliceRunner(model, tables, attention=order.facts["attention"])


def _run_forward(runner: SliceRunner, order: Order) -> None:
    lines, pages, *others = order.tensors
    copies, rows = others[: order.facts["num_copies"]], others[order.facts["num_copies"] :]
    runner.tables.copy_lines(lines.cpu().numpy(), pages.cpu().numpy())
    step = 2 if order.facts["has_plans"] else 1
    parts = [TokenRows(rows[at], 0, *rows[at + 1 : at + step]) for at in range(0, len(rows), step)]
    runner.run_layers(order.facts["kind"], parts, *copies)
