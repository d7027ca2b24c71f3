"""A deep model behind torch.compile: layers that are alike share one graph, so that depth costs nothing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from orthrus_core.attention.view import BothViews
from orthrus_core.compilation.compiled import compiled
from orthrus_core.twins import sharing

IGNORED = ("layer_idx", "training")  # settings of modules that no forward over pages depends on
Signature = tuple[Any, ...]


def with_compiled_layers(model: Any) -> Any:
    """Return a twin of a model whose decoder layers run compiled, those with one signature by one graph.

    A layer's weights and its pages are inputs of the graph. Graphs have no guards: what a layer does may
    depend on nothing but its settings, which its signature holds, and on tensors.
    """
    runs: dict[Signature, Callable[..., Any]] = {}
    layers = {
        name: _compiled(layer, runs.setdefault(signature(layer), new_run()))
        for name, layer in model.model.layers._modules.items()
    }
    stack = sharing(model.model.layers, _modules=layers)
    decoder = sharing(model.model, _modules=model.model._modules | {"layers": stack})
    return sharing(model, _modules=model._modules | {"model": decoder})


def signature(module: nn.Module) -> Signature:
    """Return what two layers must have in common to run by one graph: classes, settings and sizes."""
    tensors = [(name, tuple(one.shape), one.dtype) for name, one in module.named_parameters(recurse=False)]
    settings = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | tuple | None) and name not in IGNORED
    }
    children = [(name, child and signature(child)) for name, child in module._modules.items()]
    return (
        type(module),
        tuple(sorted(settings.items(), key=lambda item: item[0])),
        tuple(tensors),
        tuple(children),
    )


def new_run() -> Callable[..., Any]:
    """Return a function that runs any layer of one signature."""

    def run(layer: nn.Module, attend: Any, hidden: Tensor, arguments: dict[str, Any]) -> Any:
        return layer(hidden, attend=attend, **arguments)

    graph = compiled(run)
    is_traced = False

    def call(layer: nn.Module, attend: Any, hidden: Tensor, arguments: dict[str, Any]) -> Any:
        nonlocal is_traced
        if not is_traced:
            _mark_rows((hidden, arguments), hidden.shape[1])
            is_traced = True
        return graph(layer, attend, hidden, arguments)

    return call


def _compiled(layer: Any, run: Callable[..., Any]) -> nn.Module:
    """Return a layer like the given one that runs it compiled."""

    def forward(self: nn.Module, hidden: Tensor, *, attend: Any, **arguments: Any) -> Any:
        return run(layer, _of_layer(attend, layer.self_attn.layer_idx), hidden, arguments)

    own_class = type(layer)
    twin = sharing(layer)
    twin.__class__ = type(f"Compiled{own_class.__name__}", (own_class,), {"forward": forward})
    return twin


def _of_layer(attend: Any, layer_idx: int) -> Any:
    """Return what one layer needs of a forward's attention."""
    if isinstance(attend, BothViews):
        parts = {name: getattr(attend, name).of_layer(layer_idx) for name in ("ar", "diffusion")}
        return attend._replace(**parts)
    return attend.of_layer(layer_idx)


def _mark_rows(value: Any, num_rows: int) -> None:
    """Tell the compiler which dimensions change of a layer's first arguments: those with so many rows."""
    if isinstance(value, Tensor):
        for dimension in (d for d, size in enumerate(value.shape) if size == num_rows):
            torch._dynamo.mark_dynamic(value, dimension)
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            _mark_rows(one, num_rows)
