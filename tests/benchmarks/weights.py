"""What weights of one byte do to a model's text: greedy tokens against those of the model as it was loaded.

    python -m tests.benchmarks.weights --model build/smollm2-135m --questions shared/data/gsm8k/test.jsonl

Two shares by kind of weights: tokens up to the first that differs, of texts that each model writes by
itself; and tokens that a model would choose at every place of the text that the engine wrote with the weights
as loaded (of these, too, in transformers' forward, which is not the engine's). With a trained head, tokens
per step (whole blocks). No test.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from orthrus_core.engine.sequence import Completion
from orthrus_core.linear.quantised import BYTE_DTYPES
from tests.benchmarks.sampling import chat_ids


def main() -> None:
    """Print a line for each kind of weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="build/smollm2-135m")
    parser.add_argument("--questions", type=Path, default=Path("shared/data/gsm8k/test.jsonl"))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--weights", nargs="+", default=[*BYTE_DTYPES], choices=[*BYTE_DTYPES])
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    lines = options.questions.read_text(encoding="utf-8").splitlines()[: options.rows]
    prompts = [chat_ids(tokenizer, json.loads(line)["question"]) for line in lines]
    texts = write(load_model(options.model, needs_head=False), prompts, options.new_tokens, "as loaded")
    for weights, output_head in itertools.product(options.weights, (False, True)):
        model = load_model(options.model, needs_head=False, weights=weights, quantise_output_head=output_head)
        name = f"{weights}{', output head too' if output_head else ''}"
        others = write(model, prompts, options.new_tokens, name)
        total = sum(len(text) for text in texts)
        alike = sum(map(common, texts, others))
        chosen = sum(map(agreeing, itertools.repeat(model), prompts, texts))
        whole = sum(text == other for text, other in zip(texts, others, strict=True))
        print(
            f"{name}: {alike / total:.1%} of {total} tokens before the first other one, {whole} of "
            f"{len(texts)} texts whole; at the places of its text {chosen / total:.1%}",
            flush=True,
        )


def write(model: Any, prompts: list[list[int]], new_tokens: int, name: str) -> list[list[int]]:
    """Complete prompts greedily; says how drafts stood where there is a head."""
    config = EngineConfig(
        mode="consensus" if model.config.has_head else "autoregressive",
        block_policy="fixed",
        max_sequences=8,
        max_context=1024,
        token_budget=8 * (model.config.block_size + 1),
        self_check=False,
        compile="off",
    )
    engine = Engine(model, config)
    done: list[Completion] = engine.generate(prompts, SamplingParams(max_new_tokens=new_tokens))
    if model.config.has_head:
        print(f"{name}: {engine.stats.acceptance_length:.2f} tokens per step", flush=True)
    return [completion.token_ids for completion in done]


def common(text: list[int], other: list[int]) -> int:
    """Return how many tokens two texts begin alike with."""
    return sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    )


@torch.inference_mode()
def agreeing(model: Any, prompt: list[int], text: list[int]) -> int:
    """Return how many tokens of a text the model chooses behind those before them."""
    logits = model(torch.tensor([prompt + text]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return int((logits.argmax(-1) == torch.tensor(text)).sum())


if __name__ == "__main__":
    main()
