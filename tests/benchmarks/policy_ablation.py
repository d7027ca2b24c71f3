"""What each part of the block policy brings: the policy against itself without the part, simulated.

    python -m tests.benchmarks.policy_ablation                            # everything, some minutes
    python -m tests.benchmarks.policy_ablation --only record --sequences 1 4    # some of it

The real scheduler runs on a virtual clock over texts of known acceptance. A cell is a kind of costs, a text,
a number of sequences and how far the costs that the policy believes are off. Its figure is the geometric mean
over seeds, which both sides share. The best of many cells is so by luck in part, so the best ones of each
part are run again with other seeds, four times as many, and the best of these figures is printed.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

from orthrus_core.policy.adaptive import AdaptiveBlocks
from orthrus_core.policy.record import TrackRecord
from orthrus_core.policy.survival import SurvivalEstimates
from orthrus_core.policy.tail import Tail
from tests.benchmarks.simulator import Job, Simulation, cpu_costs, fixed_rate, gpu_costs

K = 8
COSTS = {"cpu": cpu_costs(), "gpu": gpu_costs()}
LOW, MEDIUM, HIGH = (0.3,) * K, (0.6,) * K, (0.97, 0.93, 0.93, 0.90, 0.91, 0.89, 0.87, 0.60)
EASY = (0.97,) * K
STEADY = {"low": (LOW,), "medium": (MEDIUM,), "high": (HIGH,), "mixed": (EASY, LOW)}
STEADY |= {"0.45": ((0.45,) * K,), "0.55": ((0.55,) * K,)}  # where a lone sequence's drafts begin to pay
STEADY["falling"] = ((0.97, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1),)
TURNING = {  # share of the tokens after which, and the acceptance before and after
    "turns easy": (0.5, ((LOW, EASY),)),
    "turns hard": (0.5, ((EASY, LOW),)),
    "half turn easy": (0.12, ((EASY, EASY), (LOW, EASY))),
}
STREAMS = {"stream": (EASY, LOW, MEDIUM), "hard stream": (LOW,)}
WRONG = [("0.45", 0.7), ("0.55", 1.3), ("mixed", 0.7), ("mixed", 1.3)]  # text, believed over true seconds
TOKENS = {1: 800, 4: 400, 8: 300, 16: 300, 64: 300}  # of each sequence, by number of sequences
SEEDS = {1: 2, 4: 2, 8: 2, 16: 2, 64: 1}
FRESH_SEED = 1000
NUM_AGAIN = 3


@dataclass(frozen=True)
class Cell:
    """One case.

    Attributes:
        costs: a name in `COSTS`.
        text: a name in `STEADY` or `TURNING`: endless sequences; in `STREAMS`: short ones with
            prompts, at least three to a slot; "tail": one to a slot, so that the last run alone.
        num_sequences: that run side by side.
        draft_factor: the believed over the true seconds of draft forwards.
    """

    costs: str
    text: str
    num_sequences: int
    draft_factor: float = 1.0

    def __str__(self) -> str:
        wrong = f" drafts believed x{self.draft_factor}" if self.draft_factor != 1 else ""
        return f"{self.costs} {self.text} {self.num_sequences}{wrong}"

    @property
    def is_endless(self) -> bool:
        """Whether nothing ends before the run is cut off."""
        return self.text in STEADY or self.text in TURNING

    def jobs(self) -> list[Job]:
        """The requests; one more than there are slots where nothing shall drain."""
        S, n = self.num_sequences, TOKENS[self.num_sequences]
        source = np.random.default_rng(0)
        if self.text in TURNING:
            share, kinds = TURNING[self.text]
            halves = itertools.islice(itertools.cycle(kinds), S + 1)
            return [Job(first, 1, (K + 2) * n, turns_at=int(n * share), then=then) for first, then in halves]
        if self.text in STEADY:
            kinds = STEADY[self.text]
            return [Job(kinds[index % len(kinds)], 1, (K + 2) * n) for index in range(S + 1)]
        if self.text in STREAMS:
            kinds, lengths = STREAMS[self.text], source.integers(40, 120, max(3 * S, 20))
            return [Job(kinds[index % len(kinds)], 30, int(n)) for index, n in enumerate(lengths)]
        return [Job((HIGH, LOW)[index % 2], 30, int(n * source.uniform(0.2, 2.0))) for index in range(S)]

    def run(self, seed: int, *, fixed: int | None = None) -> float:
        """Return tokens/s with adaptive blocks or a fixed length."""
        costs = COSTS[self.costs]
        believed = replace(costs, draft_s=tuple(s * self.draft_factor for s in costs.draft_s))
        run = Simulation(
            self.jobs(),
            costs,
            block_size=K if fixed is None else fixed,
            max_sequences=self.num_sequences,
            block_policy="adaptive" if fixed is None else "fixed",
            seed=seed,
            believed=believed,
        )
        if not self.is_endless:
            return run.run().tokens / run.clock_s
        most = self.num_sequences * TOKENS[self.num_sequences]
        while run.tokens < most:
            run.step()
        return run.expected_tokens / run.clock_s

    def fixed(self, seeds: range) -> list[float]:
        """Return tokens/s with each fixed length, plain AR first; exact for steady text."""
        if self.text not in STEADY:
            return [geometric_mean(self.run(seed, fixed=k) for seed in seeds) for k in range(0, K + 1, 2)]
        costs, S = COSTS[self.costs], self.num_sequences
        acceptances = np.array([job.acceptance for job in self.jobs()[:S]])
        return [fixed_rate(acceptances, costs, k) for k in range(K + 1) if S * (k + 1) <= costs.budgets[-1]]


def constant(path: str, value: object) -> Callable[[], AbstractContextManager]:
    """A context in which a name of the policy's modules means another thing."""
    return lambda: patch(f"orthrus_core.policy.{path}", value)


def method(owner: type, name: str, instead: object) -> Callable[[], AbstractContextManager]:
    """A context in which a method of the policy is another."""
    return lambda: patch.object(owner, name, instead)


def flat_posterior(self: SurvivalEstimates) -> np.ndarray:
    """Of `_learn_population`, without learning."""
    self._known = np.flatnonzero(self._is_known)
    return self._posterior(self._known)


ABLATIONS: dict[str, Callable[[], AbstractContextManager]] = {
    "record": method(TrackRecord, "handicap", lambda self, kind: 1.0),
    "tail": method(Tail, "worth", lambda self, remaining, contexts: np.ones(len(remaining))),
    "trials": method(AdaptiveBlocks, "_trial", lambda *_: None),
    "free blocks": constant("adaptive.FREE_BLOCKS", 0),
    "boost": constant("adaptive._boost", lambda *_: 0.0),
    "population": method(SurvivalEstimates, "_learn_population", flat_posterior),
    "offsets": method(SurvivalEstimates, "_learn_offsets", lambda *_: None),
    "evidence memory": constant("survival.EVIDENCE_MEMORY", 1.0),
    "least evidence": constant("survival.LEAST_EVIDENCE", -1e9),
}


def grid(sequences: list[int]) -> list[Cell]:
    """All cells."""
    texts = ["low", "medium", "high", "falling", "mixed", *TURNING, *STREAMS, "tail"]
    cases = [(text, 1.0) for text in texts] + WRONG
    product = itertools.product(COSTS, cases, sequences)
    return [Cell(costs, text, S, factor) for costs, (text, factor), S in product]


def rate(cell: Cell, seeds: range, without: str | None = None) -> float:
    """Return tokens/s of the policy, without a part of it or whole."""
    with ABLATIONS[without]() if without else nullcontext():
        return geometric_mean(cell.run(seed) for seed in seeds)


def seeds_of(cell: Cell, first: int = 0, times: int = 1) -> range:
    """Return the seeds that a cell is run with."""
    return range(first, first + times * SEEDS[cell.num_sequences])


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    return float(np.exp(np.mean(np.log(list(values)))))


def again(gains: dict[Cell, float], name: str) -> tuple[Cell, float]:
    """Return the cell where a part brings most of those that seem to be the best, with other seeds."""
    likely = sorted(gains, key=gains.__getitem__)[-NUM_AGAIN:]
    figures = {}
    for cell in likely:
        seeds = seeds_of(cell, FRESH_SEED, times=4)
        figures[cell] = rate(cell, seeds) / rate(cell, seeds, name)
    best = max(figures, key=figures.__getitem__)
    return best, figures[best]


def main() -> int:
    """Run the grid and print a line for each part, then the floor."""
    options = _options()
    cells = grid(options.sequences)
    whole = {cell: rate(cell, seeds_of(cell)) for cell in cells}
    _say_floor(whole)
    print("| part | gain | worst cell | best cell |\n|" + "---|" * 4, flush=True)
    for name in options.only:
        rates = {cell: rate(cell, seeds_of(cell), name) for cell in cells}
        print(_line(name, {cell: whole[cell] / rates[cell] for cell in cells}), flush=True)
    _say_host_time()
    return 0


def _line(name: str, gains: dict[Cell, float]) -> str:
    """A row of the table."""
    worst = min(gains, key=gains.__getitem__)
    best, figure = again(gains, name)
    mean = geometric_mean(gains.values())
    return f"| {name} | {mean:.3f} | {gains[worst]:.3f} ({worst}) | {figure:.3f} ({best}) |"


def _say_floor(whole: dict[Cell, float]) -> None:
    """Print the policy against plain AR and against the best fixed length, by text."""
    plain, best = {}, {}
    for cell in whole:
        lengths = cell.fixed(seeds_of(cell))
        plain[cell], best[cell] = whole[cell] / lengths[0], whole[cell] / max(lengths)
    for title, shares in (("plain AR", plain), ("the best fixed length", best)):
        worst = min(shares, key=shares.__getitem__)
        print(f"of {title}: {geometric_mean(shares.values()):.3f}, worst {shares[worst]:.3f} ({worst})")
        for cell in sorted(shares, key=shares.__getitem__)[:10]:
            print(f"    {shares[cell]:.3f} {cell}")
    print(flush=True)


def _say_host_time() -> None:
    """Print what deals cost where nobody drafts, with resting and without."""
    for S in TOKENS:
        cell = Cell("gpu", "low", S)
        resting = _deal_us(cell)
        with method(AdaptiveBlocks, "_may_rest", lambda self, demand, step: not demand.caps.any())():
            awake = _deal_us(cell)
        print(f"a deal of {S} sequences of hard text: {resting:.0f} us, without resting {awake:.0f} us")


def _deal_us(cell: Cell) -> float:
    """Return host microseconds of a deal on average, of this thread's CPU time."""
    seconds: list[float] = []
    deal = AdaptiveBlocks.deal

    def timed(*args: object, **options: object) -> object:
        started = time.thread_time()
        try:
            return deal(*args, **options)  # type: ignore[arg-type]
        finally:
            seconds.append(time.thread_time() - started)

    with patch.object(AdaptiveBlocks, "deal", timed):
        cell.run(seed=0)
    return 1e6 * float(np.mean(seconds[20:]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.policy_ablation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="*", choices=ABLATIONS, default=list(ABLATIONS), help="these parts")
    parser.add_argument(
        "--sequences", nargs="+", type=int, choices=TOKENS, default=list(TOKENS), help="these numbers"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
