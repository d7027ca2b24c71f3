"""What sampling costs: tokens/s at temperature 0.7 and top_p 0.95 against greedy, in one process, by turns.

    python -m tests.benchmarks.sampling                                          # the shipped model, a minute
    python -m tests.benchmarks.sampling --model DIR --modes autoregressive --new-tokens 32 --ignore-eos
    python -m tests.benchmarks.sampling --params '{"repetition_penalty": 1.2}'   # what penalties cost

One engine per mode and number of sequences decodes the demo's prompts both ways, on one thread; ratios are
taken round by round. Seconds are those of the process on a processor, so that other programs count for little
(`--wall`: of the clock). In consensus mode tokens per step are shown beside it: what is drawn at random is
harder to draft, whatever drawing costs.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

AIM = 0.9
SAMPLED = {"temperature": 0.7, "top_p": 0.95}


def main() -> int:
    """Print the table; returns 1 if a ratio misses the aim."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="pipelines/demo/model")
    parser.add_argument("--modes", nargs="+", default=["autoregressive", "consensus"])
    parser.add_argument("--sequences", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rows-each", type=int, default=2, help="prompts per sequence in flight")
    parser.add_argument("--compile", default="off", choices=["auto", "on", "off"])
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--params", type=json.loads, default=SAMPLED, help="what is held against greedy")
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    model, prompts = load(options.model)
    ratios = [
        measure(model, prompts, mode, num_sequences, options)
        for mode in options.modes
        for num_sequences in options.sequences
    ]
    return int(min(ratios) < AIM)


def load(path: str, dtype: Any = None) -> tuple[Any, list[list[int]]]:
    """The model, in float32 where no dtype is given, and the demo's prompts in its tokens."""
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoTokenizer

    from orthrus_core import load_model

    torch.set_num_threads(1)
    texts = pq.read_table(Path(__file__).parents[2] / "pipelines/demo/prompts")["prompt"].to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = load_model(path, dtype=dtype or torch.float32, needs_head=False)
    return model, [chat_ids(tokenizer, text) for text in texts]


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """A question in the model's chat template."""
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def measure(model: Any, prompts: list[list[int]], mode: str, num_sequences: int, options: Any) -> float:
    """Print one line of the table; returns the median ratio."""
    from orthrus_core import Engine, EngineConfig, SamplingParams
    from orthrus_core.evaluation.speed import time_systems

    config = EngineConfig(
        mode=mode,
        max_sequences=num_sequences,
        max_context=512,
        compile=options.compile,
        self_check=False,
        lookup_tokens=0,  # every round says the same
    )
    engine, lengths = Engine(model, config), {}

    def system(name: str, **fields: float):
        params = SamplingParams(max_new_tokens=options.new_tokens, ignore_eos=options.ignore_eos, **fields)

        def prepare(rows):
            def work() -> list[list[int]]:
                completions = engine.generate(rows, params)
                emitted = sum(len(one.token_ids) for one in completions)
                lengths[name] = emitted / max(1, emitted - sum(one.stats.accepted for one in completions))
                return [one.token_ids for one in completions]

            return work

        return prepare

    rows = [prompts[n % len(prompts)] for n in range(max(4, options.rows_each * num_sequences))]
    timings = time_systems(
        {"greedy": system("greedy"), "sampled": system("sampled", **options.params)},
        rows,
        rounds=options.rounds,
        warm_up_rows=min(num_sequences, 8),
        clock=time.perf_counter if options.wall else time.process_time,
    )
    greedy, sampled = timings["greedy"], timings["sampled"]
    ratio = sampled.ratio_to(greedy)
    print(
        f"{mode:15} {num_sequences:4} sequences  greedy {greedy.tokens_per_s.median:8.0f} tokens/s, "
        f"{lengths['greedy']:.2f} a step  sampled {sampled.tokens_per_s.median:8.0f}, "
        f"{lengths['sampled']:.2f} a step  ratio {ratio.median:.2f} ({ratio.lowest:.2f}-{ratio.highest:.2f})",
        flush=True,
    )
    return ratio.median


if __name__ == "__main__":
    sys.exit(main())
