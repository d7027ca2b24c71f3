"""Attention with two sets of projections over one cache: the AR view and the diffusion view.

An architecture's own attention forward does the work in both views: projections, norms, rotary embedding. A
view is an object of the attention's own class that shares everything with it except the projections, and
whose attention function is an `Attend`.
"""

import copy
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from orthrus_core.attention.view import Attend, AttentionLayer, BothViews, View
from orthrus_core.models.config import DIFFUSION_SUFFIX
from orthrus_core.twins import sharing

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
ATTENTION_NAME = "orthrus_attend"
BY_ROW = ("hidden_states", "position_embeddings", "position_ids")  # arguments (B, N, ...), or tuples of such


class DualViewAttention(nn.Module):
    """What `add_second_view` makes of an attention module: its class, with this one before it.

    Both views share everything else of the layer. `add_diffusion_head` and checkpoints set the weights.
    """

    view_modules: tuple[str, ...]
    _views: dict[View, nn.Module]

    def forward(self, *args, view: View = "ar", attend: Attend | BothViews | None = None, **kwargs):
        """Run the architecture's attention with one view's projections.

        Args:
            args: as the architecture takes them; so are `kwargs`.
            view: which projections to use, unless `attend` says it row by row.
            attend: receives q, k, v and returns (B, N, H, Dh). None: transformers' own attention over its own
                cache, which only the AR view can use.
        Returns:
            (B, N, D), and the attention weights where transformers' attention returns them.
        """
        if attend is None:
            if view != "ar":
                raise ValueError("the diffusion view needs `attend`: it has no cache of its own")
            return super().forward(*args, **kwargs)
        if isinstance(attend, BothViews):
            return self._forward_both(attend, kwargs)
        return self._views[view].forward(*args, attend=attend, **kwargs)

    def _forward_both(self, attend: BothViews, arguments: Mapping[str, Any]):
        """Run each view's attention over its own rows."""
        first, *rest = self._views["ar"].forward(
            attend=attend.ar, **_rows_of(arguments, slice(attend.num_ar))
        )
        second, *_ = self._views["diffusion"].forward(
            attend=attend.diffusion, **_rows_of(arguments, slice(attend.num_ar, None))
        )
        return torch.cat([first, second], dim=1), *rest


def add_second_view(attention: nn.Module, config: Any) -> None:
    """Turn an attention module into a `DualViewAttention`, in place.

    Every child with parameters gets a twin under its name with `_diff`.

    Args:
        attention: of a transformers decoder layer, see `orthrus_core.models.requirements`.
        config: from `attend_config`, shared by the layers.
    """
    names = view_modules(attention)
    for name in names:
        attention.add_module(name + DIFFUSION_SUFFIX, copy.deepcopy(getattr(attention, name)))
    own_class: Any = type(attention)
    attention.__class__ = _dual_view_class(own_class)
    attention.view_modules = names  # type: ignore[assignment]
    attention._views = {  # type: ignore[assignment]
        "ar": _view_of(attention, own_class, config),
        "diffusion": _view_of(attention, _diffusion_class(own_class, names), config),
    }


def view_modules(attention: nn.Module) -> tuple[str, ...]:
    """Return the names of the children that each view has its own of: those with parameters."""
    return tuple(name for name, child in attention.named_children() if any(True for _ in child.parameters()))


def attend_config(config: Any) -> Any:
    """Return a model's config under which its attention modules call `attend`, for all layers."""
    AttentionInterface.register(ATTENTION_NAME, _call_attend)
    config = copy.copy(config)
    config._attn_implementation = ATTENTION_NAME
    return config


def _rows_of(arguments: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Return an attention module's arguments for some of its N rows."""
    own = dict(arguments)
    for name in BY_ROW:
        value = own.get(name)
        if isinstance(value, tuple):
            cos, sin = value  # no generator: torch 2.11 would fix the slice that it closes over
            own[name] = cos[:, rows], sin[:, rows]
        elif value is not None:
            own[name] = value[:, rows]
    return own


def _call_attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attend: Attend,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """`attend` in the form that transformers' attention modules call."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = AttentionLayer(module.layer_idx, scaling, sliding_window, softcap)  # type: ignore[arg-type]
    return attend(layer, query, key, value), None


def _view_of(attention: nn.Module, view_class: type[nn.Module], config: Any) -> nn.Module:
    """Return an object of `view_class` that shares the attention's children, whichever it has at the time.

    Its settings are the attention's of now. It is never in training mode: the backbone is frozen, and dropout
    in it would tell the views apart.
    """
    return sharing(attention, view_class, config=config, training=False)


@functools.cache
def _dual_view_class(own_class: Any) -> type[nn.Module]:
    return type("DualView" + own_class.__name__, (DualViewAttention, own_class), {"__module__": __name__})


@functools.cache
def _diffusion_class(own_class: Any, names: tuple[str, ...]) -> type[nn.Module]:
    """The attention's class, whose projections are those of the diffusion view."""
    namespace: dict[str, Any] = {name: _twin(name) for name in names}
    return type("Diffusion" + own_class.__name__, (own_class,), namespace | {"__module__": __name__})


def _twin(name: str) -> property:
    key = name + DIFFUSION_SUFFIX

    def get(view: nn.Module) -> nn.Module:
        return view._modules[key]  # type: ignore[return-value]

    return property(get)
