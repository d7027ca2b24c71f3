"""Layers that keep their inputs alone and compute the rest again in the backward."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within it, forwards of these layers hold no activations for the backward but what goes in.

    Only `forward` is wrapped, not the call of the module: hooks, those of FSDP among them, run once outside.
    """
    wrapped = list(layers)
    for layer in wrapped:
        # A decoder layer here is never in training mode: there is no dropout whose chance must come again.
        again = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        layer.__dict__["forward"] = again
    try:
        yield
    finally:
        for layer in wrapped:
            del layer.__dict__["forward"]  # the class's own is there again
