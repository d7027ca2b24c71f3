"""What lookup brings: a model's own AR decoding against the same engine that looks drafts up, by turns.

    python -m tests.benchmarks.lookup --model build/smollm2-135m --questions shared/data/gsm8k/test.jsonl
    python -m tests.benchmarks.lookup --model pipelines/demo/model --plain    # without its head

One line for a lone greedy sequence and one for samples at temperature 0.7. Both engines run over one runner
and forget all texts between rounds, so that a round finds only what it wrote itself. Seconds are those of the
process on a processor (`--wall`: of the clock). Texts are compared.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from orthrus_core.evaluation.speed import time_systems
from orthrus_core.readiness.engine import new_runner
from orthrus_core.readiness.startup import get_ready
from tests.benchmarks.sampling import chat_ids

BUDGETS = (8, 12, 16, 24, 32, 48, 64, 96)  # few, and not checked but by the texts: a start is short
AIMS = {"alone": 1.3, "samples": 1.5}


def main() -> int:
    """Print a line per load; returns 1 if a ratio misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="build/smollm2-135m")
    parser.add_argument("--questions", type=Path, default=Path("shared/data/gsm8k/test.jsonl"))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", nargs="+", default=[*AIMS], choices=[*AIMS])
    parser.add_argument("--plain", action="store_true", help="leave the model's head aside")
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = (
        load_model(options.model, needs_head=False),
        AutoTokenizer.from_pretrained(options.model),
    )
    model.config.has_head = model.config.has_head and not options.plain
    lines = options.questions.read_text(encoding="utf-8").splitlines()[: options.rows]
    prompts = [chat_ids(tokenizer, json.loads(line)["question"]) for line in lines]
    return int(any(measure(model, prompts, load, options) < AIMS[load] for load in options.loads))


def measure(model: Any, prompts: list[list[int]], load: str, options: Any) -> float:
    """Print one line; returns the median ratio."""
    num_samples = 8 if load == "samples" else 1
    sampled = {"temperature": 0.7, "seed": 1} if load == "samples" else {}
    params = SamplingParams(max_new_tokens=options.new_tokens, **sampled)
    config = EngineConfig(
        max_sequences=num_samples, max_context=1024, budgets=BUDGETS, compile="off", self_check=False
    )
    runner = new_runner(model, config)
    ready = get_ready(runner, config)
    plain = config.model_copy(update={"mode": "autoregressive"})
    engines = {name: Engine(runner, one, ready=ready) for name, one in (("AR", plain), ("lookup", config))}

    def system(engine: Engine):
        def prepare(rows):
            engine.forget_prompts()
            return lambda: [one.token_ids for one in engine.generate(rows, params, num_samples=num_samples)]

        return prepare

    timings = time_systems(
        {name: system(engine) for name, engine in engines.items()},
        prompts,
        rounds=options.rounds,
        warm_up_rows=1,
        clock=time.perf_counter if options.wall else time.process_time,
    )
    assert timings["AR"].outputs == timings["lookup"].outputs, "lookup changed the text"
    stats, ratio = engines["lookup"].stats, timings["lookup"].ratio_to(timings["AR"])
    print(
        f"{load:8} {num_samples} sequences  AR {timings['AR'].tokens_per_s.median:.1f} tokens/s, lookup "
        f"{timings['lookup'].tokens_per_s.median:.1f}, ratio {ratio.median:.2f} ({ratio.lowest:.2f}-"
        f"{ratio.highest:.2f}), {stats.acceptance_length:.2f} tokens per verify forward and sequence, "
        f"{stats.lookup_accepted} of {stats.lookup_drafted} looked up drafts stood, "
        f"{stats.draft_forwards} draft forwards",
        flush=True,
    )
    return ratio.median


if __name__ == "__main__":
    sys.exit(main())
