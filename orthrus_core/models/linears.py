"""The model as an engine runs it: the same tensors and settings, some of its layers computed by kernels."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from orthrus_core.linear.backend import BackedLinear, LinearBackend, backed
from orthrus_core.linear.quantised import QuantisedLinear
from orthrus_core.models.activations import row_wise
from orthrus_core.models.attention import DualViewAttention
from orthrus_core.twins import sharing

Model = TypeVar("Model", bound=nn.Module)


def with_kernels(model: Model, backend: LinearBackend) -> Model:
    """Return a twin of a model, whose linear layers go through the backend where it takes them.

    On CPUs its activations become row-wise. Modules are new, everything in them is the model's: parameters,
    buffers, hooks, config. The model stays as it is, and what is written into its tensors holds for the twin
    too.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return _twin(model, backend, {}, row_wise if on_cpu else lambda module: module)


def knows_rows(model: nn.Module) -> bool:
    """Whether a matrix is multiplied by other than a backend's kernel, so that bits may depend on T."""
    return any(
        parameter.ndim > 1
        for module in model.modules()
        if not isinstance(module, BackedLinear | nn.Embedding)
        for parameter in module.parameters(recurse=False)
    )


def _twin(
    module, backend: LinearBackend, known: dict[int, nn.Module], leaf: Callable[[nn.Module], nn.Module]
):
    if id(module) in known:
        return known[id(module)]
    twin = leaf(module)
    if type(module) in (nn.Linear, QuantisedLinear):
        twin = backed(module, backend) if backend.takes(module) else module
    elif twin is module:
        children = {
            name: child and _twin(child, backend, known, leaf) for name, child in module._modules.items()
        }
        twin = sharing(module, _modules=children)
        if isinstance(module, DualViewAttention):
            views = {view: sharing(one, _modules=children) for view, one in module._views.items()}
            twin.__dict__["_views"] = views
    known[id(module)] = twin
    return twin
