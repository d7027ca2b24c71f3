"""What a step costs on the host: the engine over forwards that take no time.

    python -m tests.benchmarks.host
    python -m tests.benchmarks.host --profile 256    # where the time of plain steps goes
    python -m tests.benchmarks.host --device-ms 4    # plain steps beside a device that takes so long for each

The model is a stub that answers at once: what is left plans, lays out, accepts and commits. Taken in CPU
seconds of the thread, so that other work on the machine counts for little.
"""

import argparse
import cProfile
import pstats
import statistics
import time

import numpy as np
import torch

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.attention.rows import TokenRows
from orthrus_core.attention.view import View
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.costs import Costs
from orthrus_core.engine import flight
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.readout import Hidden, Readout
from orthrus_core.readiness.startup import Readiness
from orthrus_core.transfer import HostCopy
from tests.small_models import small_orthrus

K = 7
PROMPT_TOKENS, MAX_CONTEXT = 100, 4096
TOKEN = 5
SIZES = (1, 8, 64, 256, 512)
WARM_UP, STEPS = 20, 200


class StubRunner(ModelRunner):
    """Lays out as the real one does; every row of either view says the same token."""

    device_s = 0.0
    free_at = 0.0

    def forward(self, rows: TokenRows, view: View) -> Hidden:
        """Answer at once; a device would be done at `free_at`."""
        self.free_at = max(self.free_at, time.perf_counter()) + self.device_s
        T = rows.packed.shape[1]
        return Hidden(torch.zeros(T, 1), torch.zeros(T))

    def read(self, rows: TokenRows, hidden: Hidden, view: View) -> Readout:
        """Answer at once."""
        R = len(rows.chosen(hidden.states))
        numbers = torch.zeros(R)
        return Readout(torch.zeros(R, 1), torch.full((R,), TOKEN), numbers, numbers, numbers)


def new_engine(num_sequences: int, *, mode: str, lookup_tokens: int = 0) -> Engine:
    """Return an engine whose sequences all decode, with whole blocks in consensus mode; lookup finds all."""
    S, T = num_sequences, max(num_sequences * (K + 1), 64)
    config = EngineConfig(
        mode=mode,
        token_budget=T,
        max_sequences=S,
        max_context=MAX_CONTEXT,
        self_check=False,
        compile="off",
        lookup_tokens=lookup_tokens,
    )
    tables = PageTables(
        PagePool(config.total_pages, config.page_size),
        num_slots=S,
        pages_per_sequence=config.pages_per_sequence,
    )
    model = small_orthrus(block_size=K, max_position_embeddings=MAX_CONTEXT)
    budgets = (S, T) if S < T else (T,)
    cheap = tuple(1.0 + 0.1 * rung for rung in range(len(budgets)))
    engine = Engine(StubRunner(model, tables), config, ready=Readiness("exact", Costs(budgets, cheap, cheap)))
    params = SamplingParams(max_new_tokens=MAX_CONTEXT - PROMPT_TOKENS, ignore_eos=True)
    for index in range(S):
        engine.submit(Request([index % 7] * PROMPT_TOKENS, params))
    while any(one.is_prefilling for one in engine.scheduler.running) or engine.scheduler.num_waiting:
        engine.step()
    for _ in range(WARM_UP):
        engine.step()
    return engine


def step_ms(engine: Engine) -> float:
    """Return the median of many steps, in milliseconds."""
    taken = []
    for _ in range(STEPS):
        started_at = time.thread_time()
        engine.step()
        taken.append(time.thread_time() - started_at)
    return 1e3 * statistics.median(taken)


def beside_device_ms(engine: Engine, device_s: float, *, runs_ahead: bool) -> float:
    """Return the milliseconds of a step where every forward takes a device so long."""

    class Copy(HostCopy):
        """Comes when the device is done with what was queued before it."""

        def __init__(self, tensor: torch.Tensor):
            super().__init__(tensor)
            self.done_at = engine.runner.free_at

        def wait(self) -> np.ndarray:
            """Sleep until then."""
            time.sleep(max(0.0, self.done_at - time.perf_counter()))
            return super().wait()

    flight.HostCopy, engine.runs_ahead = Copy, runs_ahead
    engine.runner.device_s = device_s
    started_at = time.perf_counter()
    for _ in range(STEPS):
        engine.step()
    return 1e3 * (time.perf_counter() - started_at) / STEPS


def main() -> None:
    """Print the table, or the profile of plain steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", type=int, help="number of sequences")
    parser.add_argument("--mode", default="autoregressive", help="of the profiled steps")
    parser.add_argument("--device-ms", type=float, help="that a forward takes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.profile:
        engine = new_engine(arguments.profile, mode=arguments.mode)
        with cProfile.Profile() as profile:
            step_ms(engine)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        return
    if arguments.device_ms:
        print("| sequences | one by one, ms | launched ahead, ms |\n|---|---|---|")
        for S in SIZES:
            engine = new_engine(S, mode="autoregressive")
            took = [
                beside_device_ms(engine, arguments.device_ms / 1e3, runs_ahead=ahead)
                for ahead in (False, True)
            ]
            print(f"| {S} | {took[0]:.2f} | {took[1]:.2f} |", flush=True)
        return
    print("| sequences | plain step, ms | drafting step, ms | ratio |\n|---|---|---|---|")
    for S in SIZES:
        plain, drafting = (step_ms(new_engine(S, mode=mode)) for mode in ("autoregressive", "consensus"))
        print(f"| {S} | {plain:.2f} | {drafting:.2f} | {drafting / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
