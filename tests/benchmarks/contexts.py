"""Where drafting pays by context: adaptive blocks against every fixed length, simulated on modelled cards.

    python -m tests.benchmarks.contexts
    python -m tests.benchmarks.contexts --sources    # two forwards, one, lookup, all of them, by sequences
    python -m tests.benchmarks.contexts --model build/smollm2-135m-head    # measured, acceptance replayed

The real scheduler and block policy run on a virtual clock, an 8B model of Qwen3's shape in BF16 on a card's
data sheet numbers, of which 70 % are reached. As many sequences run as the card has memory for.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from orthrus_core.costs import CellCosts, Costs
from orthrus_core.engine.blocks import BlockPolicy, FixedBlocks
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.evaluation.replay import Replay
from orthrus_core.models.cost import ModelShape, forward_flops
from orthrus_core.models.model import OrthrusLM
from orthrus_core.readiness.engine import new_runner
from orthrus_core.readiness.ladder import candidate_budgets
from orthrus_core.readiness.startup import get_ready
from pipelines.plan import CARDS, EFFICIENCY, Card, forward_s
from tests.benchmarks.simulator import Job, KnownLookup, Simulation, best_fixed_rate, fixed_rate

SHAPE = ModelShape(
    num_layers=36,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=12288,
    vocab_size=151_936,
    tied_embeddings=False,
)
K = 32
TOKEN_BUDGET = 1024
MEMORY_SHARE, MOST_SEQUENCES = 0.9, 512
MEASURED_CONTEXTS, MEASURED_RATES = (256, 2048, 6144), (0.6, 0.8, 0.9)
MEASURED_SEQUENCES, MEASURED_TOKENS, MEASURED_DRAFTS = 4, 96, (2, 4, 8)
ROUNDS = 3
CONTEXTS, ACCEPTANCES = (512, 4096, 16_384, 32_768), (0.6, 0.8, 0.9)
SEQUENCES, WARM_UP = (1, 4, 16, 64, 256), 64
PAST_SEQUENCES, PAST_BLOCKS = 30, 20  # that the policy has seen, of such text
SPLIT_S = 10e-6  # a layer's rows taken apart by view and put together, a handful of small kernels: assumed
LOOKUP_S, LOOKUP_SEQUENCE_S = 0.35e-3, 4e-6  # of the host: the least of 55 searches here
LOOKUP_RATE, LOOKED_UP = 0.51, 16  # SmolLM2-135M answering GSM8K: 1.97 tokens a verify forward with 4 drafts
DEAR_S = 1e3  # of a draft forward: there is none


@dataclass(frozen=True)
class Outcome:
    """Endless sequences of one length and acceptance.

    Attributes:
        num_sequences: side by side.
        ar_rate: tokens/s of plain AR, in the end.
        gain: of adaptive blocks over plain AR at every step's context.
        best_drafts: the best fixed number of drafts, in the end.
        share: of the rate of the best fixed number at every step's context.
    """

    num_sequences: int
    ar_rate: float
    gain: float
    best_drafts: int
    share: float


def card_costs(card: Card) -> Costs:
    """Model the forwards of the 8B model: weights or products, whichever takes longer, and the cells."""
    budgets = candidate_budgets(TOKEN_BUDGET, "cuda")
    seconds = tuple(forward_s(card, SHAPE, rows=T, sequences=0, context=0) for T in budgets)
    row_flops = forward_flops(SHAPE, rows=1, context=1) - forward_flops(SHAPE, rows=1, context=0)
    cells = CellCosts(
        SHAPE.kv_bytes_per_token / card.bytes_per_s / EFFICIENCY, row_flops / card.flops_per_s / EFFICIENCY
    )
    return Costs(budgets, seconds, seconds, cells, cells, step_s=0.3e-3)


def fitting_sequences(card: Card, context: int) -> int:
    """Return how many sequences the card's memory holds beside the weights."""
    weights = (SHAPE.backbone_params + SHAPE.head_params) * SHAPE.dtype_bytes
    left = MEMORY_SHARE * card.memory_bytes - weights
    return min(MOST_SEQUENCES, int(left / (context * SHAPE.kv_bytes_per_token)))


def both_s(card: Card) -> float:
    """Model what a forward of both views takes beside one of as many rows: weights of the head, and seams."""
    head_s = SHAPE.head_params * SHAPE.dtype_bytes / card.bytes_per_s / EFFICIENCY
    return head_s + SHAPE.num_layers * SPLIT_S


def endless(
    costs: Costs,
    *,
    num_sequences: int,
    context: int,
    acceptance: float,
    steps: int,
    is_learnt: bool = False,
    **options: Any,
) -> Simulation:
    """Return sequences that go on for more than so many steps, their prompts behind them.

    Args:
        is_learnt: whether such text is nothing new to the policy.
        options: of the simulation.
    """
    jobs = [Job((acceptance,) * K, context, steps * (K + 1) + 2)] * (num_sequences + 1)
    run = Simulation(jobs, costs, **{"block_size": K, "max_sequences": num_sequences} | options)
    if is_learnt:
        _teach(run.policy, acceptance)
    while any(sequence.is_prefilling for sequence in run.scheduler.running) or not run.steps:
        run.step()
    return run


def mean_length(run: Simulation) -> int:
    """Return the tokens of a running sequence, on average."""
    return round(np.mean([len(sequence.token_ids) for sequence in run.scheduler.running]))


def simulate(costs: Costs, *, num_sequences: int, context: int, acceptance: float, steps: int) -> Outcome:
    """Run endless sequences for some steps, prompts not counted."""
    run = endless(costs, num_sequences=num_sequences, context=context, acceptance=acceptance, steps=steps)
    began_s, best_s, ar_s = run.clock_s, 0.0, 0.0
    acceptances = np.full((num_sequences, K), acceptance)
    for _ in range(steps):
        before, mean = run.expected_tokens, mean_length(run)
        run.step()
        best_rate, best_drafts = best_fixed_rate(acceptances, costs, mean)
        ar_rate = fixed_rate(acceptances, costs, 0, mean)
        best_s += (run.expected_tokens - before) / best_rate
        ar_s += (run.expected_tokens - before) / ar_rate
    seconds = run.clock_s - began_s
    return Outcome(num_sequences, ar_rate, ar_s / seconds, best_drafts, best_s / seconds)


def gains(card: Card, *, steps: int, num_sequences: int, **case: Any) -> dict[str, float]:
    """Return the rates of two forwards, one forward, lookup and all of them over that of plain AR."""
    two = card_costs(card)
    both = replace(two, both_s=both_s(card), any_split=False)
    one = replace(both, draft_s=(DEAR_S,) * len(two.budgets))
    taken_s = LOOKUP_S + LOOKUP_SEQUENCE_S * num_sequences
    lookups = [KnownLookup(LOOKUP_RATE, most=LOOKED_UP, seconds=taken_s) for _ in range(2)]
    found: dict[str, float] = {}
    for name, costs, options in (
        ("two forwards", two, {"is_learnt": True}),
        ("one forward", one, {"is_learnt": True}),
        ("lookup", two, {"block_size": 0, "lookup": lookups[0]}),
        ("all", both, {"lookup": lookups[1], "is_learnt": True}),
    ):
        run = endless(costs, num_sequences=num_sequences, steps=WARM_UP + steps, **case, **options)
        run.run(run.steps + WARM_UP)
        began_s, ar_s = run.clock_s, 0.0
        for _ in range(steps):
            before, mean = run.expected_tokens, mean_length(run)
            run.step()
            ar_rate = fixed_rate(np.zeros((num_sequences, 1)), two, 0, mean)
            ar_s += (run.expected_tokens - before) / ar_rate
        found[name] = ar_s / (run.clock_s - began_s)
    return found


def _teach(policy: BlockPolicy, acceptance: float) -> None:
    """Let a policy see sequences come and go, one after the other."""
    random, slot = np.random.default_rng(0), np.array([0])
    for num_accepted in random.geometric(1 - acceptance, (PAST_SEQUENCES, PAST_BLOCKS, 1)) - 1:
        for outcome in np.minimum(num_accepted, K):
            policy.observe(slot, np.array([K]), outcome)
        policy.forget(0)


def source_lines(card_name: str, acceptance: float, steps: int) -> Iterator[str]:
    """Yield the table of the sources of drafts."""
    card = CARDS[card_name]
    yield f"{card_name}, {acceptance} of the head's drafts accepted"
    yield "| context | sequences | two forwards | one forward | lookup | all | all / best |"
    yield "|" + "---|" * 7
    for context in CONTEXTS:
        most = fitting_sequences(card, context)
        for S in sorted({min(S, most) for S in SEQUENCES}):
            found = gains(card, steps=steps, num_sequences=S, context=context, acceptance=acceptance)
            cells = " | ".join(f"{gain:.2f}" for gain in found.values())
            best = max(gain for name, gain in found.items() if name != "all")
            yield f"| {context:,} | {S} | {cells} | {found['all'] / best:.3f} |"


def lines(steps: int) -> Iterator[str]:
    """Yield the table."""
    head = ("card", "context", "sequences", "acceptance", "best fixed drafts", "AR tokens/s")
    yield f"| {' | '.join(head)} | adaptive / AR | adaptive / best fixed |"
    yield "|" + "---|" * 8
    for name in ("h100", "h200"):
        card, costs = CARDS[name], card_costs(CARDS[name])
        for context in CONTEXTS:
            for acceptance in ACCEPTANCES:
                S = fitting_sequences(card, context)
                one = simulate(costs, num_sequences=S, context=context, acceptance=acceptance, steps=steps)
                yield (
                    f"| {name} | {context:,} | {one.num_sequences} | {acceptance} | {one.best_drafts} "
                    f"| {one.ar_rate:,.0f} | {one.gain:.2f} | {one.share:.3f} |"
                )


def measure(model: OrthrusLM, context: int, rates: tuple[float, ...], *, rounds: int) -> Iterator[str]:
    """Yield a line per acceptance: tokens/s here, every way of drafting in turns, the best of each.

    All engines run over one runner: prompts are prefilled once; adaptive blocks keep what they learnt.
    """
    config = EngineConfig(
        max_sequences=MEASURED_SEQUENCES,
        max_context=context + 2 * MEASURED_TOKENS,
        compile="off",
        num_pages=MEASURED_SEQUENCES * (context + 2 * MEASURED_TOKENS) // 16 + 2 * MEASURED_SEQUENCES + 1,
        lookup_tokens=0,  # every round says the same
    )
    runner = new_runner(model, config)
    block_size, V = model.config.block_size, model.config.vocab_size
    ready = get_ready(runner, config)
    prompts = np.random.default_rng(context).integers(5, V, (MEASURED_SEQUENCES, context)).tolist()
    params = SamplingParams(max_new_tokens=MEASURED_TOKENS, ignore_eos=True)
    ar = Engine(runner, config.model_copy(update={"mode": "autoregressive"}), ready=ready)
    texts = {
        tuple(prompt): one.token_ids
        for prompt, one in zip(prompts, ar.generate(prompts, params), strict=True)
    }
    for rate in rates:
        curve = AcceptanceCurve((rate,) * block_size)
        replay = Replay(texts, curve, block_size=block_size, vocab_size=V)
        engines = {"AR": ar}
        for k in MEASURED_DRAFTS:
            own = config.model_copy(update={"block_size": k})
            policy = FixedBlocks(ready.costs)
            engines[f"{k}"] = Engine(runner, own, ready=ready, policy=policy, draft=replay.new_draft())
        engines["adaptive"] = Engine(runner, config, ready=ready, draft=replay.new_draft())
        best = dict.fromkeys(engines, 0.0)
        for _, (name, engine) in itertools.product(range(rounds), engines.items()):
            began_s = time.perf_counter()
            assert [one.token_ids for one in engine.generate(prompts, params)] == list(texts.values())
            seconds = time.perf_counter() - began_s
            best[name] = max(best[name], MEASURED_SEQUENCES * MEASURED_TOKENS / seconds)
        fixed = max(rate for name, rate in best.items() if name != "adaptive")
        cells = " | ".join(f"{best[name] / best['AR']:.2f}" for name in list(best)[1:])
        yield f"| {context:,} | {rate} | {best['AR']:.1f} | {cells} | {best['adaptive'] / fixed:.3f} |"


def print_measured(options: argparse.Namespace) -> None:
    """Print the measured table of a model."""
    model = load_model(options.model, dtype=torch.bfloat16)
    names = " | ".join(f"{k} drafts / AR" for k in MEASURED_DRAFTS)
    print(f"| context | acceptance | AR tokens/s | {names} | adaptive / AR | adaptive / best |")
    print("|" + "---|" * (5 + len(MEASURED_DRAFTS)))
    for context in options.contexts:
        for line in measure(model, context, MEASURED_RATES, rounds=options.rounds):
            print(line, flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of each case, prompts not counted")
    parser.add_argument("--model", help="checkpoint with a head: measure here instead")
    parser.add_argument("--contexts", nargs="+", type=int, default=MEASURED_CONTEXTS, help="with --model")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="with --model, the best of so many")
    parser.add_argument("--sources", action="store_true", help="by source of the drafts")
    parser.add_argument("--card", default="h200", choices=CARDS, help="with --sources")
    parser.add_argument("--acceptance", type=float, default=0.8, help="of the head, with --sources")
    options = parser.parse_args()
    if options.model:
        print_measured(options)
        return
    sources = source_lines(options.card, options.acceptance, options.steps)
    for line in sources if options.sources else lines(options.steps):
        print(line, flush=True)


if __name__ == "__main__":
    main()
