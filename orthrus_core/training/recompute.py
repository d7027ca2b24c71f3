"""Layers that keep their inputs alone and compute the rest again in the backward."""

import functools
from collections.abc import Iterable

from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputed:
    """A context in which forwards of some layers hold nothing for the backward but what goes in.

    Only `forward` is wrapped, not the call of the module: hooks, those of FSDP among them, run once, outside.
    The wrappers are made once: torch.compile takes new ones for a new program.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        # Decoder layers here are never in training mode: there is no dropout whose chance must come again.
        again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        self._wrapped = [(layer, functools.partial(again, layer.forward)) for layer in layers]

    def __enter__(self) -> None:
        for layer, forward in self._wrapped:
            layer.__dict__["forward"] = forward

    def __exit__(self, *_: object) -> None:
        for layer, _forward in self._wrapped:
            del layer.__dict__["forward"]  # the class's own is there again
