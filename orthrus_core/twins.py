"""Modules that are another one in everything but what was changed."""

from torch import nn


def sharing(module: nn.Module, **changes: object) -> nn.Module:
    """Return a module of the same class and with the same attributes, but for the changes."""
    twin = type(module).__new__(type(module))
    twin.__dict__.update(module.__dict__, **changes)
    return twin
