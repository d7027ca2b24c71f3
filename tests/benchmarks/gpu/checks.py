"""Parity of the attention kernels with plain attention, and bits that must not depend on the company."""

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from orthrus_core import Engine, EngineConfig
from orthrus_core.attention.choose import triton_backend
from orthrus_core.attention.rows import Span
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import TRIAL_TOLERANCE, random_trial
from orthrus_core.attention.triton_paged import TritonBackend
from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.random_model import random_model
from orthrus_core.models.cost import ModelShape
from orthrus_core.request import SamplingParams

Row = dict[str, Any]
CONTEXT = 700  # three splits, the last one short
CHECKED_LAYERS = 4
GROUPINGS = 12


def attention_spec(
    shape: ModelShape, *, dtype: torch.dtype, device: torch.device, max_context: int = CONTEXT
) -> AttentionSpec:
    """Return what a backend must know of a model shape; pages of 16 cells."""
    return AttentionSpec(shape.num_heads, shape.num_kv_heads, shape.head_dim, 16, max_context, dtype, device)


def check_parity(shape: ModelShape, *, dtypes: list[torch.dtype], device: torch.device) -> Iterator[Row]:
    """Compare the kernels with attention in float32, in both views, with and without a window."""
    spans = [Span(0, 600, [0] * 37), Span(1, 0, [0] * 9), Span(2, 255, [0])]
    for dtype in dtypes:
        spec = attention_spec(shape, dtype=dtype, device=device)
        backend, refusal = _backend(spec)
        if backend is None:
            yield {"backend": "triton", "dtype": str(dtype), "result": "not usable", "why": refusal}
            continue
        for causal in (True, False):
            for window in (None, 300):
                trial = random_trial(spec, spans, token_budget=64, causal=causal)
                out = trial.run(backend, scaling=0.1, window=window)[: trial.num_used].float()
                error = float((out - trial.answer(scaling=0.1, window=window)).abs().max())
                yield {
                    "backend": backend.name,
                    "dtype": str(dtype),
                    "view": "ar" if causal else "diffusion",
                    "window": window,
                    "max_error": error,
                    "passed": error <= TRIAL_TOLERANCE[dtype],
                }


def check_kernel_bits(shape: ModelShape, *, dtypes: list[torch.dtype], device: torch.device) -> Iterator[Row]:
    """Compare the bits of single rows with those of the same rows in random groupings."""
    for dtype in dtypes:
        spec = attention_spec(shape, dtype=dtype, device=device)
        backend, refusal = _backend(spec)
        if backend is None:
            yield {"check": "triton kernel, groupings", "result": "not usable", "why": refusal}
            continue
        differing = count_differing_groupings(backend, spec)
        yield {
            "check": f"triton kernel, {GROUPINGS} groupings",
            "dtype": str(dtype),
            "differing": differing,
            # on a CPU the kernel is interpreted and multiplies through BLAS, which promises no such thing
            "passed": None if device.type == "cpu" else differing == 0,
        }


def count_differing_groupings(backend: TritonBackend, spec: AttentionSpec, *, num_rows: int = 64) -> int:
    """Count random groupings in which any row of slot 0 has other bits than alone."""
    chance = random.Random(0)
    differing = 0
    for _ in range(GROUPINGS):
        position = chance.choice((15, 255, 256, chance.randrange(40, spec.max_context - 40)))
        count = chance.randint(2, 33)
        spans = [Span(0, position, [0] * count)]
        spans.insert(chance.randint(0, 1), Span(1, chance.randrange(500), [0] * chance.randint(1, 20)))
        spans.append(Span(2, chance.randrange(500), [0] * chance.randint(1, 10)))
        row = chance.randrange(count)
        together = _bits(backend, spec, spans, num_rows, position + row)
        alone = _bits(backend, spec, [Span(0, position + row, [0])], num_rows, position + row)
        differing += not torch.equal(together, alone)
    return differing


def check_engine(
    name: str, shape: ModelShape, *, dtypes: list[torch.dtype], device: torch.device
) -> Iterator[Row]:
    """Compare texts of random schedules with those of AR decoding, few layers of the shape."""
    shape = shape.model_copy(update={"num_layers": min(shape.num_layers, CHECKED_LAYERS)})
    for dtype in dtypes:
        model = random_model(shape, device=device, dtype=dtype, max_context=1024)
        chance = random.Random(1)
        prompts = [
            [chance.randrange(shape.vocab_size - 1) for _ in range(chance.randint(1, 300))] for _ in range(6)
        ]
        greedy = SamplingParams(max_new_tokens=24, ignore_eos=True)
        sampled = SamplingParams(max_new_tokens=24, ignore_eos=True, temperature=0.8, seed=3)
        params = [greedy, sampled] * 3
        expected, exactness = _texts(model, prompts, params, mode="autoregressive", max_sequences=1)
        for block_size, max_sequences in ((32, 1), (5, 3), (8, 6)):
            texts, _ = _texts(
                model, prompts, params, mode="consensus", block_size=block_size, max_sequences=max_sequences
            )
            yield {
                "check": f"{name}, {shape.num_layers} layers: K {block_size}, {max_sequences} at once = AR",
                "dtype": str(dtype),
                "differing": sum(mine != its for mine, its in zip(texts, expected, strict=True)),
                "exactness": exactness,
                "passed": texts == expected and exactness == "exact",
            }


def _texts(model, prompts, params, **options) -> tuple[list[list[int]], str]:
    engine = Engine(model, EngineConfig(token_budget=64, max_context=512, **options))
    completions = engine.generate(prompts, params)
    return [completion.token_ids for completion in completions], engine.exactness


def _backend(spec: AttentionSpec) -> tuple[TritonBackend | None, str]:
    try:
        return triton_backend(spec), ""
    except ConfigError as error:
        return None, str(error)


def _bits(
    backend: TritonBackend, spec: AttentionSpec, spans: list[Span], num_rows: int, position: int
) -> Tensor:
    """Return the output row of slot 0 at a position."""
    trial = random_trial(spec, spans, token_budget=num_rows, num_slots=3)
    used = trial.packed[:, : trial.num_used]
    row = ((used[2] == 0) & (used[4] == position)).nonzero()[0, 0]
    return trial.run(backend, scaling=0.1)[row]
