"""What shared prompt beginnings save: rows/s with the cache's prefix index and without, by turns.

    python -m tests.benchmarks.prefixes                                   # the shipped model, a few minutes
    python -m tests.benchmarks.prefixes --model DIR --dtype bfloat16 --rows 128 --new-tokens 32

Every prompt is one of some beginnings of 400 tokens (`--beginnings 1 20`), drawn at random for each, and a
question. Seconds are those of the process on a processor. Texts of both ways are compared. `--turns 4
--beginnings 1 --beginning-tokens 0`: conversations of four questions each, with nothing in common.
"""

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.evaluation.speed import System, rows_in_common, time_systems
from orthrus_core.evaluation.systems import EngineSystem
from tests.benchmarks.sampling import load


class Rows(EngineSystem):
    """The engine over rows of some turns: behind each answer comes another question."""

    def __init__(self, model: Any, questions: list[list[int]], *, turns: int, shares: bool, **more: Any):
        """Args: shares is false where every prompt is to be prefilled whole."""
        super().__init__(model, **more)
        self._questions, self._turns, self._shares = questions, turns, shares

    def __call__(self, prompts: list[list[int]]) -> Callable[[], list[list[int]]]:
        """Start the engine if it does not run yet, and take its index away where nothing is to be shared."""
        if self.engine is None:
            self.engine = Engine(self._model, self._config)
            if not self._shares:
                self.engine.runner.tables.pool.index_prefix = lambda *anything: None
                self.engine.scheduler._will_share = lambda *anything: False
        self.engine.forget_prompts()
        return lambda: self._answers(prompts)

    def _answers(self, prompts: list[list[int]]) -> list[list[int]]:
        engine, self.prompt_tokens = self.engine, 0
        answers: list[list[int]] = [[] for _ in prompts]
        self.completions = []
        asked: dict[int, tuple[int, int, list[int]]] = {}

        def ask(row: int, turn: int, prompt: list[int]) -> None:
            self.prompt_tokens += len(prompt)
            request = Request(prompt, self._params, followed=turn < self._turns, follows=turn > 1)
            asked[engine.submit(request)] = row, turn, prompt

        for row, prompt in enumerate(prompts):
            ask(row, 1, prompt)
        while engine.has_work:
            for completion in engine.step():
                row, turn, prompt = asked.pop(completion.request_id)
                assert completion.error is None
                self.completions.append(completion)
                answers[row] += completion.token_ids
                if turn < self._turns:
                    question = self._questions[(row + turn) % len(self._questions)]
                    ask(row, turn + 1, prompt + completion.token_ids + question)
        return answers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pipelines/demo/model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", default="autoregressive")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--beginnings", nargs="+", type=int, default=[1, 20])
    parser.add_argument("--beginning-tokens", type=int, default=400)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model, questions = load(options.model, getattr(torch, options.dtype))
    print(
        "| beginnings | rows/s without | rows/s | ratio (lowest-highest) | found in the cache | same text |"
    )
    print("|---|---|---|---|---|---|")
    for count in options.beginnings:
        measure(model, questions, count, options)


def shared_prompts(questions: list[list[int]], count: int, options: Any) -> list[list[int]]:
    """Questions behind one of `count` beginnings each, which are questions one after the other."""
    chance = random.Random(0)
    words = [token_id for question in questions for token_id in question]
    starts = [chance.randrange(len(words) - options.beginning_tokens) for _ in range(count)]
    beginnings = [words[start : start + options.beginning_tokens] for start in starts]
    return [chance.choice(beginnings) + questions[row % len(questions)] for row in range(options.rows)]


def measure(model: Any, questions: list[list[int]], count: int, options: Any) -> None:
    """Print one line of the table."""
    prompts = shared_prompts(questions, count, options)
    params = SamplingParams(max_new_tokens=options.new_tokens)
    longest = max(map(len, prompts)) + (options.turns - 1) * max(map(len, questions))
    longest += options.turns * options.new_tokens
    config = EngineConfig(
        mode=options.mode, max_sequences=options.sequences, max_context=longest, compile="off"
    )
    systems: dict[str, System] = {
        name: Rows(model, questions, turns=options.turns, shares=name == "with", params=params, config=config)
        for name in ("without", "with")
    }
    timings = time_systems(
        systems, prompts, rounds=options.rounds, warm_up_rows=options.sequences, clock=time.process_time
    )
    without, shared = timings["without"], timings["with"]
    ratios = sorted(a / b for a, b in zip(without.seconds, shared.seconds, strict=True))
    sharing = systems["with"]
    found = sum(one.stats.cached_tokens for one in sharing.completions) / sharing.prompt_tokens
    rates = [len(prompts) / sorted(one.seconds)[len(one.seconds) // 2] for one in (without, shared)]
    same = rows_in_common(without.outputs, shared.outputs)
    print(
        f"| {count} | {rates[0]:.1f} | {rates[1]:.1f} | {ratios[len(ratios) // 2]:.2f} "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f}) | {100 * found:.0f} % | {same} of {len(prompts)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
