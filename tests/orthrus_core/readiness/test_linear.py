"""Which linear layers an engine takes."""

import pytest
import torch

import orthrus_core.engine.runner as runner
import orthrus_core.readiness.linear as linear
import orthrus_core.readiness.startup as startup
from orthrus_core import Engine, EngineConfig
from orthrus_core.costs import CellCosts
from orthrus_core.errors import ConfigError
from orthrus_core.linear.backend import BackedLinear
from orthrus_core.readiness.calibration import ForwardCosts
from tests.small_models import small_orthrus

LADDER = [8, 10, 12, 14, 16]
CONFIG = EngineConfig(budgets=tuple(LADDER), max_sequences=2, max_context=64)


def is_native(runner) -> bool:
    return isinstance(runner.model.lm_head, BackedLinear)


def slow_down(monkeypatch, *, native: float) -> None:
    """Let forwards over native layers seem to take so many times as long as others, which take 1 ms a row."""

    def measure_rungs(runner, budgets, view):
        return tuple(1e-3 * T * (native if is_native(runner) else 1.0) for T in budgets)

    def measure_forwards(*arguments):
        return ForwardCosts(measure_rungs(*arguments), CellCosts())

    monkeypatch.setattr(linear, "TIMED", {"cpu"})
    monkeypatch.setattr(linear, "measure_rungs", measure_rungs)
    monkeypatch.setattr(startup, "measure_forwards", measure_forwards)


def plant(monkeypatch, *, wrong: int, on_native: bool) -> None:
    """Make one kind of layers give other last bits in forwards of one budget."""
    read = runner.ModelRunner.read

    def tampered(self, rows, hidden, view):
        readout = read(self, rows, hidden, view)
        differs = is_native(self) is on_native and len(rows.token_ids) == wrong
        return readout._replace(logits=readout.logits * (1 + 1e-6 * differs))

    monkeypatch.setattr(runner.ModelRunner, "read", tampered)


def report(**changes) -> dict:
    return Engine(small_orthrus(), CONFIG.model_copy(update=changes)).report()


@pytest.mark.parametrize(("native", "taken"), [(0.5, "native"), (1.4, "native"), (1.6, "plain")])
def test_torch_must_be_half_as_fast_again_to_be_taken(monkeypatch, native, taken):
    slow_down(monkeypatch, native=native)
    assert report()["linear"] == taken


def test_on_a_cpu_no_clock_decides(monkeypatch):
    slow_down(monkeypatch, native=100.0)
    monkeypatch.setattr(linear, "TIMED", {"cuda"})
    assert report()["linear"] == "native"


def test_the_next_is_tried_where_budgets_of_the_fastest_disagree(monkeypatch):
    slow_down(monkeypatch, native=1.2)
    plant(monkeypatch, wrong=16, on_native=True)
    found = report(max_sequences=15)
    assert (found["linear"], found["budgets"]) == ("plain", LADDER)


def test_the_first_stays_where_the_next_is_no_better(monkeypatch):
    slow_down(monkeypatch, native=1.6)
    plant(monkeypatch, wrong=16, on_native=False)
    engine = Engine(small_orthrus(), CONFIG.model_copy(update={"max_sequences": 15}))
    assert engine.report()["budgets"] == LADDER
    assert engine.report()["linear"] == "native"
    assert is_native(engine.runner)


@pytest.mark.parametrize("name", ["native", "plain"])
@pytest.mark.parametrize("self_check", [True, False])
def test_what_was_asked_for_is_taken(name, self_check):
    model = small_orthrus()
    engine = Engine(model, CONFIG.model_copy(update={"linear": name, "self_check": self_check}))
    assert engine.report()["linear"] == name
    assert is_native(engine.runner) is (name == "native")
    assert not isinstance(model.lm_head, BackedLinear)


def test_without_the_check_rows_that_know_no_budget_are_taken():
    assert report(self_check=False)["linear"] == "native"


def test_half_precision_on_a_cpu_is_plain():
    model = small_orthrus(dtype=torch.float16)
    assert Engine(model, CONFIG.model_copy(update={"self_check": False})).report()["linear"] == "plain"


def test_a_kernel_of_another_device_is_an_error():
    with pytest.raises(ConfigError, match="linear: triton does not run on cpu devices: choose native"):
        report(linear="triton")


@pytest.mark.slow
def test_compiled_forwards_go_through_the_kernel():
    engine = Engine(small_orthrus(), CONFIG.model_copy(update={"compile": "on"}))
    assert engine.report()["compiled"]
    assert engine.report()["linear"] == "native"
    assert engine.report()["budgets"] == LADDER
