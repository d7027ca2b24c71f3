"""A hash of what the engine says, for every way of saying it: equal before and after a change of the engine.

    python -m tests.benchmarks.texts > before.json     # in one checkout
    python -m tests.benchmarks.texts > after.json      # in another; diff tells which way of decoding changed

Tokens, log-probabilities and logit gaps go into the hash bit by bit. GSM8K questions are added where
`--questions` names a JSONL file.
"""

import argparse
import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model

MODEL = Path("pipelines/demo/model")
PROMPTS = Path("pipelines/demo/prompts")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WAYS = {
    "greedy": {},
    "stop": {"stop": ("e", "12"), "logprobs": True},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "seed": 7},
    "filtered": {"temperature": 1.2, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "seed": 11},
    "schema": {"json_schema": SCHEMA},
    "regex": {"regex": "[a-z ]{3,40}[.!]", "temperature": 0.9, "seed": 3},
    "choices": {"choices": ("yes", "no", "perhaps"), "temperature": 1.0, "seed": 5},
}


def engine_configs() -> Iterator[tuple[str, EngineConfig]]:
    """Every kind of engine whose texts do not depend on the clock."""
    common = {"max_context": 512, "max_sequences": 8}
    yield "ar", EngineConfig(mode="autoregressive", **common)
    yield "adaptive", EngineConfig(**common)
    yield "fixed", EngineConfig(block_policy="fixed", num_pages=120, **common)
    one_budget = {"self_check": False, "token_budget": 96, "block_policy": "fixed"}
    yield "rejection", EngineConfig(consensus="rejection", **one_budget, **common)


def read_prompts(num_demo: int, num_questions: int, questions: Path | None) -> list[str]:
    """The first demo prompts, then the first questions of a JSONL file."""
    texts = pq.read_table(PROMPTS)["prompt"].to_pylist()[:num_demo]
    if questions is not None:
        texts += [json.loads(line)["question"] for line in questions.read_text().splitlines()[:num_questions]]
    return texts


def digest(completions: Sequence) -> str:
    """Hash tokens, reasons, and the bits of the sums that go with them."""
    state = hashlib.sha256()
    for one in completions:
        state.update(json.dumps([one.token_ids, one.finish_reason, one.error, one.stop_string]).encode())
        numbers = [one.stats.logprob, one.stats.min_logit_gap or 0.0, *(one.logprobs or ())]
        state.update(struct.pack(f"{len(numbers)}d", *numbers))
    return state.hexdigest()[:16]


def main() -> None:
    """Print one JSON object: way to hash."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=int, default=40, help="demo prompts")
    parser.add_argument("--num-questions", type=int, default=24)
    parser.add_argument("--questions", type=Path, help="JSONL file with a field question")
    parser.add_argument("--tokens", type=int, default=64, help="max_new_tokens")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = read_prompts(options.demo, options.num_questions, options.questions)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in texts
    ]
    hashes = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(MODEL, dtype=dtype)
        for name, config in engine_configs():
            engine = Engine(model, config, tokenizer)
            for way, fields in WAYS.items():
                params = SamplingParams(max_new_tokens=options.tokens, **fields)
                samples = 2 if params.temperature else 1
                completions = engine.generate(prompts, params, num_samples=samples)
                hashes[f"{str(dtype).removeprefix('torch.')} {name} {way}"] = digest(completions)
    print(json.dumps(hashes, indent=1))


if __name__ == "__main__":
    main()
