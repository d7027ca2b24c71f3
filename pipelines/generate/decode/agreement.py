"""All engines of a run work alike: with the budgets and kernels of the first one."""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace

from pipelines.generate.decode.spec import ActorSpec, fixed_to
from pipelines.generate.engine.thread import EngineLike

SETTINGS = ("token_budget", "budgets", "compiled", "linear")  # which every engine would find out for itself

logger = logging.getLogger(__name__)


def load_alike(spec: ActorSpec, load: Callable[[ActorSpec], EngineLike]) -> EngineLike:
    """Load an engine; once more with the settings of the run's first one, where it chose others."""
    engine = load(spec)
    if spec.board is None:
        return engine
    own = {name: engine.report().get(name) for name in SETTINGS}
    first = spec.board.settle(own)
    if first is None or first == own:
        return engine
    logger.info("engine starts again with the settings of the run's first one: %s, not %s", first, own)
    if hasattr(engine, "close"):
        engine.close()
    del engine
    gc.collect()  # its weights go before the next ones come
    return load(replace(spec, decode=fixed_to(spec.decode, first)))
