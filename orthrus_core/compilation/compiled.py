"""Forwards behind torch.compile: one graph for every T."""

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

OPTIONS = {"size_asserts": False, "deterministic": True}  # or a clock would pick how sums are split


def compiled(function: Any) -> Any:
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
    return torch.compile(own_copy, fullgraph=True, options={"guard_filter_fn": _drop_all, **OPTIONS})


def mark_budget_dynamic(*parts: tuple[Tensor, Any], copies: Sequence[Tensor] = ()) -> None:
    """Tell the compiler which dimensions depend on the rows: theirs (5, T), a plan's length, the copies'."""
    for packed, arrangement in parts:
        torch._dynamo.mark_dynamic(packed, 1)
        if isinstance(arrangement, Tensor):
            torch._dynamo.mark_dynamic(arrangement, 0)
    for pages in copies:
        torch._dynamo.mark_dynamic(pages, 1)


def mark_rows_dynamic(rows: Tensor) -> None:
    """Tell the compiler that the number of rows (R, D) changes."""
    torch._dynamo.mark_dynamic(rows, 0)


def _drop_all(guards: Sequence[Any]) -> list[bool]:
    return [False] * len(guards)
