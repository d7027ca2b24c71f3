"""The whole engine over a model of random weights: its ladder, its costs, its rates, its exactness."""

import random
import time
from collections.abc import Iterator
from typing import Any

import torch

from orthrus_core import Completion, Engine, EngineConfig, SamplingParams
from orthrus_core.evaluation.random_model import random_model, random_prompts
from orthrus_core.models.cost import ModelShape, forward_flops
from orthrus_core.models.model import OrthrusLM

Row = dict[str, Any]
MAX_CONTEXT = 2048
PROMPT_TOKENS, NEW_TOKENS = 1500, 64
PREFILLED = 8
SEQUENCES = (1, 8, 64)
SAMPLED = {"temperature": 0.7, "top_p": 0.95}
LEAST_SAMPLED_SHARE = 0.9
TRAJECTORIES, TRAJECTORY_TOKENS, BATCH = 1000, 24, 100


def report_ladder(
    shape: ModelShape, *, device: torch.device, dtype: torch.dtype, compiled: bool
) -> Iterator[Row]:
    """Yield which budgets agree and what they cost, then rates of prompts, greedy and sampled text."""
    model = random_model(shape, device=device, dtype=dtype, max_context=MAX_CONTEXT)
    began_at = time.perf_counter()
    engine = new_engine(model, max_sequences=SEQUENCES[-1], compiled=compiled)
    report = engine.report()
    yield {
        "what": "start",
        "seconds": time.perf_counter() - began_at,
        "exactness": engine.exactness,
        "budgets": str(report["budgets"]),
        "linear": report["linear"],
        "attention": report["attention"],
        "passed": engine.exactness == "exact",
    }
    for T, draft_s, verify_s in zip(
        *(report[name] for name in ("budgets", "draft_s", "verify_s")), strict=True
    ):
        yield {"what": "forward", "T": T, "draft_ms": draft_s * 1e3, "verify_ms": verify_s * 1e3}
    cells = {
        f"{view}_{kind}_ns": seconds * 1e9
        for view in ("draft", "verify")
        for kind, seconds in zip(("cell", "row_cell"), report[f"{view}_cells_s"], strict=True)
    }
    yield {"what": "cells"} | cells
    yield prefill_rate(engine, shape)
    for S in SEQUENCES:
        yield sampling_rates(engine, S)


def new_engine(
    model: OrthrusLM, *, max_sequences: int, compiled: bool, mode: str = "autoregressive"
) -> Engine:
    """Return an engine of this mode."""
    config = EngineConfig(
        mode=mode,
        max_sequences=max_sequences,
        max_context=MAX_CONTEXT,
        compile="on" if compiled else "off",
    )
    return Engine(model, config)


def prefill_rate(engine: Engine, shape: ModelShape) -> Row:
    """Return tokens/s of prompts and the operations per second that they stand for."""
    prompts = random_prompts(PREFILLED, PROMPT_TOKENS, vocab_size=shape.vocab_size)
    seconds = run_s(engine, prompts, SamplingParams(max_new_tokens=1, ignore_eos=True))
    flops = sum(forward_flops(shape, rows=len(ids), context=len(ids) // 2) for ids in prompts)
    tokens = sum(map(len, prompts))
    return {"what": "prefill", "tokens_per_s": tokens / seconds, "tflops": flops / seconds / 1e12}


def sampling_rates(engine: Engine, num_sequences: int) -> Row:
    """Return tokens/s of greedy and of sampled text, in turns, the better of two each; greedy also without
    launching steps ahead.
    """
    V, runs_ahead = engine.runner.model.config.vocab_size, engine.runs_ahead
    prompts = random_prompts(num_sequences, 32, vocab_size=V, seed=1)
    tokens, taken = num_sequences * NEW_TOKENS, {"greedy": [], "sampled": [], "one by one": []}
    for _ in range(2):
        for name, seconds in taken.items():
            options = SAMPLED if name == "sampled" else {}
            engine.runs_ahead = runs_ahead and name != "one by one"
            params = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True, **options)
            seconds.append(run_s(engine, prompts, params))
    engine.runs_ahead = runs_ahead
    greedy, sampled, one_by_one = (tokens / min(seconds) for seconds in taken.values())
    return {
        "what": f"AR, {num_sequences} sequences",
        "greedy_per_s": greedy,
        "one_by_one_per_s": one_by_one,
        "sampled_per_s": sampled,
        "sampled/greedy": sampled / greedy,
        "passed": sampled >= LEAST_SAMPLED_SHARE * greedy,
    }


def run_s(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> float:
    """Return the seconds that prompts take from beginning to end, nothing shared with earlier ones."""
    engine.forget_prompts()
    began_at = time.perf_counter()
    engine.generate(prompts, params)
    return time.perf_counter() - began_at


def compare_trajectories(
    shape: ModelShape, *, device: torch.device, dtype: torch.dtype, compiled: bool, count: int = TRAJECTORIES
) -> Iterator[Row]:
    """Yield, batch by batch, how many texts of consensus decoding differ from those of AR."""
    model = random_model(shape, device=device, dtype=dtype, max_context=MAX_CONTEXT)
    ar, consensus = (
        new_engine(model, max_sequences=S, compiled=compiled, mode=mode)
        for mode, S in (("autoregressive", 16), ("consensus", 48))
    )
    differing = compared = 0
    while compared < count:
        chance = random.Random(compared)
        num_prompts = min(BATCH, count - compared)
        prompts = [
            ids[: chance.randint(1, len(ids))]
            for ids in random_prompts(num_prompts, 200, vocab_size=shape.vocab_size, seed=compared)
        ]
        params = [
            SamplingParams(max_new_tokens=TRAJECTORY_TOKENS, ignore_eos=True, logprobs=True, **options)
            for _ in prompts
            for options in (chance.choice(({}, SAMPLED | {"seed": chance.randrange(99)})),)
        ]
        texts = [engine.generate(prompts, params) for engine in (ar, consensus)]
        differing += sum(_bits(mine) != _bits(its) for mine, its in zip(*texts, strict=True))
        compared += num_prompts
        yield {
            "trajectories": compared,
            "differing": differing,
            "exactness": consensus.exactness,
            "drafts accepted": sum(consensus.stats.accepted_by_position),
            "passed": differing == 0,
        }


def _bits(completion: Completion) -> tuple[list[int], list[float] | None]:
    return completion.token_ids, completion.logprobs
