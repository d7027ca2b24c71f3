"""Whether torch.compile pays for an engine, and putting it to work."""

import logging
import time
from collections.abc import Sequence

from orthrus_core.compilation.compiler import get_compiler_ready
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.runner import KINDS, Kind, ModelRunner
from orthrus_core.errors import reason_of

logger = logging.getLogger(__name__)

COMPILE_S = 18.0  # both views, on a machine that compiles them for the first time
MOST_IN_ONE = 8  # layers in one graph, which takes 2 s each; deeper models compile one layer, on CPUs
SAVED_PER_LAYER_S = 0.2e-3  # of a forward on a CPU: what the layers' operators cost beside their arithmetic
FORWARDS_PER_TOKEN = 0.5  # of one sequence: between AR decoding (1) and good drafts (0.25)
MARGIN = 2.0  # the saving must be so many times the cost


def should_compile(config: EngineConfig, *, device_type: str, num_layers: int) -> bool:
    """Return what `config.compile` comes to.

    Args:
        config: of the engine; `auto` looks at `expected_tokens`.
        device_type: of the model.
        num_layers: L.
    """
    if config.compile != "auto":
        return config.compile == "on"
    if device_type != "cpu":
        return device_type == "cuda"
    num_forwards = config.expected_tokens * FORWARDS_PER_TOKEN / config.max_sequences
    saved_s = num_forwards * num_layers * SAVED_PER_LAYER_S
    return saved_s > MARGIN * COMPILE_S


def is_by_layer(num_layers: int, device_type: str) -> bool:
    """Whether layers are compiled one by one: graphs of CUDA take the cost of calls away, a CPU pays it."""
    return device_type == "cpu" and num_layers > MOST_IN_ONE


def compile_forwards(runner: ModelRunner, kinds: Sequence[Kind] = KINDS) -> bool:
    """Send forwards through torch.compile, for every T at once; whether it worked.

    Takes seconds to minutes the first time on a machine, less afterwards: torch keeps what it made. Where it
    fails, forwards stay eager and a warning says why.
    """
    if not runner.backend.has_static_shapes:
        logger.warning("compile=off: %s attention has no static shapes", runner.backend.name)
        return False
    started_at = time.perf_counter()
    get_compiler_ready()
    try:
        runner.compile(kinds, by_layer=is_by_layer(runner.model.config.num_hidden_layers, runner.device.type))
    except Exception as error:  # whatever the compiler or its toolchain raises
        logger.warning("compile=off: torch.compile failed: %s", reason_of(error))
        return False
    logger.info("compiled forwards seconds=%.1f", time.perf_counter() - started_at)
    return True
