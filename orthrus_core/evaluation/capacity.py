"""What a whole job takes on a device: memory of an actor, sequences that fit, and seconds of its work."""

from dataclasses import dataclass

from orthrus_core.engine.config import EngineConfig
from orthrus_core.evaluation.cost import Hardware, ModelShape, forward_s
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.evaluation.throughput import Load, adaptive_rate, fixed_rate
from orthrus_core.readiness.ladder import choose_token_budget

FP32_BYTES = 4
LOGIT_COPIES = 2  # in FP32 beside the model's own: the readout's, and a filtered or normalised one
ROW_VECTORS = 8  # of hidden size that a layer holds at once for each row: residual, q, k, v, outputs


@dataclass(frozen=True)
class ActorMemory:
    """Bytes of one actor.

    Attributes:
        weights: backbone and diffusion head, which is loaded for AR decoding too.
        cache: keys and values of all pages.
        working: activations and logits of the largest forward, estimated.
    """

    weights: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.cache + self.working


@dataclass(frozen=True)
class Work:
    """What a job has to do.

    Attributes:
        rows: prompts.
        prompt_tokens: mean of a prompt.
        completions: completions of a prompt; they share its prefill.
        completion_tokens: mean of a completion.
    """

    rows: int
    prompt_tokens: float
    completions: float
    completion_tokens: float

    @property
    def tokens(self) -> float:
        """Tokens to emit."""
        return self.rows * self.completions * self.completion_tokens

    @property
    def mean_context(self) -> int:
        """Positions before an emitted token, on average."""
        return round(self.prompt_tokens + self.completion_tokens / 2)


@dataclass(frozen=True)
class WorkTime:
    """Seconds of one actor that does all the work.

    Attributes:
        tokens_per_s: while decoding.
        ar_tokens_per_s: the same without drafts.
        prefill_s, decode_s: of all rows.
    """

    tokens_per_s: float
    ar_tokens_per_s: float
    prefill_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        """Both."""
        return self.prefill_s + self.decode_s


def actor_memory(
    shape: ModelShape, engine: EngineConfig, *, block_size: int, device_type: str
) -> ActorMemory:
    """Return the memory of an actor with this engine.

    Args:
        block_size: K of the head, for the budget where the config names none.
        device_type: "cpu" or "cuda".
    """
    T = token_budget(engine, block_size=block_size, device_type=device_type)
    views = 2 if engine.mode == "consensus" else 1
    params = shape.backbone_params + shape.head_params
    logits = T * shape.vocab_size * (views * shape.dtype_bytes + LOGIT_COPIES * FP32_BYTES)
    vectors = ROW_VECTORS * shape.hidden_size + 2 * shape.intermediate_size
    return ActorMemory(
        weights=params * shape.dtype_bytes,
        cache=engine.total_pages * engine.page_size * shape.kv_bytes_per_token,
        working=logits + T * vectors * shape.dtype_bytes,
    )


def sequences_that_fit(
    shape: ModelShape, engine: EngineConfig, *, memory_bytes: float, block_size: int, device_type: str
) -> int:
    """Return the most `max_sequences` of max_context tokens each that the memory holds; 0: not even one.

    The budget grows with the sequences where the config names none, and so does what a forward works with.
    """

    def total(sequences: int) -> int:
        T = None if engine.token_budget is None else max(engine.token_budget, sequences)
        changed = {"max_sequences": sequences, "num_pages": None, "budgets": None, "token_budget": T}
        grown = EngineConfig(**engine.model_dump() | changed)
        return actor_memory(shape, grown, block_size=block_size, device_type=device_type).total

    if total(1) > memory_bytes:
        return 0
    low, high = 1, 2
    while total(high) <= memory_bytes:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= memory_bytes else (low, middle)
    return low


def work_time(
    hardware: Hardware,
    shape: ModelShape,
    engine: EngineConfig,
    work: Work,
    curves: tuple[AcceptanceCurve, ...],
    *,
    block_size: int,
    device_type: str,
) -> WorkTime:
    """Return the seconds that one actor takes for all of the work, at full batches.

    Prompts are computed in forwards of the whole token budget beside decoding, so that the sum of both is an
    upper bound of what the cost formulas say.
    """
    T = token_budget(engine, block_size=block_size, device_type=device_type)
    load = Load(curves, engine.max_sequences, work.mean_context)
    ar = fixed_rate(hardware, shape, load, 0)
    rate = adaptive_rate(hardware, shape, load)[0] if engine.mode == "consensus" else ar
    half_prompt = round(work.prompt_tokens / 2)
    prefill_forward_s = forward_s(hardware, shape, rows=T, sequences=1, context=half_prompt)
    return WorkTime(
        tokens_per_s=rate,
        ar_tokens_per_s=ar,
        prefill_s=work.rows * work.prompt_tokens / T * prefill_forward_s,
        decode_s=work.tokens / rate,
    )


def token_budget(engine: EngineConfig, *, block_size: int, device_type: str) -> int:
    """Return T as the engine chooses it."""
    if engine.token_budget is not None:
        return engine.token_budget
    if engine.budgets is not None:
        return engine.budgets[-1]
    return choose_token_budget(
        max_sequences=engine.max_sequences, block_size=block_size, device_type=device_type
    )
