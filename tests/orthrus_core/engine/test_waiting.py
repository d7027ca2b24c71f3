"""How often a step waits for the device: once, for what its rows chose."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.cache import PagePool, PageTables
from tests.small_models import small_orthrus

WAITS = {"cpu", "tolist", "item", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"}
ON_THE_HOST = "numpy"  # of what has been brought there


class Waits(TorchFunctionMode):
    """Counts the calls that would wait for another device than a CPU to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in WAITS or (name == "to" and "cpu" in args and not (kwargs or {}).get("non_blocking")):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.95}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("mode", ["autoregressive", "consensus"])
def test_a_step_waits_for_the_device_once(mode, sampling):
    config = EngineConfig(mode=mode, max_context=64, self_check=False, block_policy="fixed")
    engine = Engine(small_orthrus(), config)
    for prompt in ([1, 2, 3], [4, 5]):
        engine.submit(Request(prompt, SamplingParams(max_new_tokens=40, ignore_eos=True, **sampling)))
    engine.step()
    with Waits() as waits:
        for _ in range(3):
            engine.step()
    assert (engine.stats.draft_forwards > 0) == (mode == "consensus")
    assert waits.calls == {ON_THE_HOST: 3}


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.95}], ids=["greedy", "sampled"])
def test_cuda_sees_no_wait_but_that_for_the_outcome(sampling, recwarn):
    engine = Engine(small_orthrus().cuda(), EngineConfig(max_context=64, self_check=False, compile="off"))
    engine.submit(Request([1, 2, 3], SamplingParams(max_new_tokens=40, ignore_eos=True, **sampling)))
    for _ in range(3):
        engine.step()
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [one for one in recwarn if "synchroniz" in str(one.message)]


def test_only_lines_of_page_tables_that_changed_are_sent():
    tables = PageTables(PagePool(9, 4), num_slots=4, pages_per_sequence=4)
    tables.grow(2, 5)
    tables.grow(0, 1)
    assert tables.take_changed().tolist() == [0, 2]
    assert tables.take_changed().tolist() == []
    tables.grow(2, 8)  # its two pages hold that many
    assert tables.take_changed().tolist() == []
    tables.grow(2, 9)
    tables.clear(0)
    assert np.array_equal(tables.take_changed(), [0, 2])
