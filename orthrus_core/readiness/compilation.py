"""Whether torch.compile pays for an engine."""

from orthrus_core.engine.config import EngineConfig

COMPILE_S = 10.0  # both views, on a machine that compiles them for the first time, and
COMPILE_PER_LAYER_S = 2.0  # (demo model: 16 to 18 s; a second process takes 6 s)
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
    return saved_s > MARGIN * (COMPILE_S + COMPILE_PER_LAYER_S * num_layers)
