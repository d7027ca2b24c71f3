"""Modules that are another one in everything but what was changed."""

from typing import Any

from torch import nn


def sharing(module: nn.Module, own_class: type[nn.Module] | None = None, **changes: object) -> Any:
    """Return a module of the same class, or of its own, with the same attributes, but for the changes."""
    own_class = own_class or type(module)
    twin = own_class.__new__(own_class)
    twin.__dict__.update(module.__dict__, **changes)
    return twin
