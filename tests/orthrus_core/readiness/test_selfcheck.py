"""The start-up check passes where bits agree and catches what makes them differ."""

import pytest
import torch

import orthrus_core.attention.native as native
import orthrus_core.engine.runner as runner
from orthrus_core import Engine, EngineConfig
from orthrus_core.readiness import selfcheck
from orthrus_core.readiness.ladder import FINE_FROM
from orthrus_core.readiness.selfcheck import fastest_set
from tests.small_models import small_orthrus

CONFIG = EngineConfig(token_budget=32, max_sequences=2, max_context=640)
RUNGS = [1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 28, 32]
FINE_RUNGS = [rung for rung in RUNGS if rung >= FINE_FROM]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_this_machine_is_exact(dtype):
    engine = Engine(small_orthrus(dtype=dtype), CONFIG)
    assert engine.exactness == "exact"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_this_machine_is_exact_without_a_compiler_too(dtype, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    engine = Engine(small_orthrus(dtype=dtype), CONFIG)
    assert engine.report()["attention"] == "plain"
    assert engine.exactness == "exact"


def test_the_check_gives_all_pages_back():
    engine = Engine(small_orthrus(), CONFIG)
    pool = engine.runner.tables.pool
    assert pool.num_available == pool.num_pages - 1


def test_without_the_check_nothing_is_claimed():
    assert Engine(small_orthrus(), CONFIG.model_copy(update={"self_check": False})).exactness == "unverified"


def test_small_engines_are_checked_too():
    config = EngineConfig(token_budget=4, max_sequences=1, max_context=8, page_size=2)
    assert Engine(small_orthrus(), config).exactness == "exact"


def test_bits_that_depend_on_the_neighbours_are_caught(monkeypatch, caplog):
    attend = native.NativeAttention.attend

    def leaky(self, q, k, v, layer, at):
        return attend(self, q, k, v, layer, at) * (1 + 1e-6 * (at.packed[3] >= 0).sum())

    monkeypatch.setattr(native.NativeAttention, "attend", leaky)
    engine = Engine(small_orthrus(), CONFIG)
    assert engine.exactness == "unverified"
    assert "exactness=unverified" in caplog.text
    assert engine.report()["budgets"] == RUNGS


def fine_rungs(engine: Engine) -> list[int]:
    """Return the rungs that every machine has; below, what the clock prefers may disagree."""
    return [rung for rung in engine.report()["budgets"] if rung >= FINE_FROM]


def plant(monkeypatch, *, rungs: set[int]) -> None:
    """Make forwards of these budgets differ in their last bits."""
    read = runner.ModelRunner.read

    def tampered(self, rows, hidden, view):
        readout = read(self, rows, hidden, view)
        factor = 1 + 1e-6 * (len(rows.token_ids) in rungs)
        return readout._replace(logits=readout.logits * factor)

    monkeypatch.setattr(runner.ModelRunner, "read", tampered)


def test_all_rungs_agree_here():
    assert fine_rungs(Engine(small_orthrus(), CONFIG)) == FINE_RUNGS


def test_a_rung_that_disagrees_is_left_out(monkeypatch):
    plant(monkeypatch, rungs={14, 28})
    engine = Engine(small_orthrus(), CONFIG)
    assert engine.exactness == "exact"
    assert fine_rungs(engine) == [rung for rung in FINE_RUNGS if rung not in (14, 28)]


@pytest.mark.parametrize(("linear", "left_out"), [("auto", set()), ("plain", {224})])
def test_of_large_rungs_some_stand_for_all_where_products_know_no_rows(monkeypatch, linear, left_out):
    plant(monkeypatch, rungs={224})
    config = CONFIG.model_copy(update={"token_budget": 256, "linear": linear})
    assert {224} - set(Engine(small_orthrus(), config).report()["budgets"]) == left_out


def test_where_those_disagree_all_rungs_are_tried(monkeypatch):
    plant(monkeypatch, rungs={96, 128})
    config = CONFIG.model_copy(update={"token_budget": 160, "max_context": 64})
    assert not {96, 128} & set(Engine(small_orthrus(), config).report()["budgets"])


def test_of_sets_that_agree_the_fastest_is_kept():
    flat = dict.fromkeys((16, 32, 64, 128, 256), 1.0)  # a card that reads weights, whatever the rows
    sets = [[16, 32, 64], [128], [256]]
    assert fastest_set(sets, flat, least=1) == (256,)
    linear = {rung: float(rung) for rung in flat}  # a core that computes: more rungs, fewer idle rows
    assert fastest_set(sets, linear, least=1) == (16, 32, 64)


def test_a_set_without_room_for_every_sequence_is_not_taken(monkeypatch):
    plant(monkeypatch, rungs={16, 20})
    config = CONFIG.model_copy(update={"token_budget": 20, "max_sequences": 15, "max_context": 64})
    assert Engine(small_orthrus(), config).report()["budgets"] == [16, 20]


def test_rungs_of_a_manifest_are_checked_too(monkeypatch):
    plant(monkeypatch, rungs={12})
    config = CONFIG.model_copy(update={"budgets": (8, 12, 32)})
    assert Engine(small_orthrus(), config).report()["budgets"] in ([8, 32], [12])  # whichever is faster


def test_without_the_check_there_is_one_rung():
    config = CONFIG.model_copy(update={"self_check": False})
    assert Engine(small_orthrus(), config).report()["budgets"] == [32]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_forwards_are_exact(dtype):
    engine = Engine(small_orthrus(dtype=dtype), CONFIG.model_copy(update={"compile": "on"}))
    assert engine.report()["compiled"]
    assert engine.exactness == "exact"


def test_a_rung_whose_last_rows_differ_is_left_out(monkeypatch):
    read = runner.ModelRunner.read

    def tampered(self, rows, hidden, view):
        readout = read(self, rows, hidden, view)
        T = len(rows.token_ids)
        factor = 1 + 1e-6 * ((torch.arange(T) >= 20) & (T == 24))
        return readout._replace(logits=readout.logits * rows.chosen(factor)[:, None])

    monkeypatch.setattr(runner.ModelRunner, "read", tampered)
    assert fine_rungs(Engine(small_orthrus(), CONFIG)) == [rung for rung in FINE_RUNGS if rung != 24]


def test_sequences_that_share_pages_are_checked(monkeypatch, caplog):
    attend = native.NativeAttention.attend

    def forgetful(self, q, k, v, layer, at):
        first, second = at.page_tables[:2, :1]
        shares = (first == second) & (first > 0)
        return attend(self, q, k, v, layer, at) * (1 + 1e-6 * shares)

    monkeypatch.setattr(native.NativeAttention, "attend", forgetful)
    assert Engine(small_orthrus(), CONFIG).exactness == "unverified"
    assert "another sequence over the same pages" in caplog.text


def test_draws_that_depend_on_the_number_of_rows_are_caught(monkeypatch, caplog):
    monkeypatch.setattr(selfcheck, "trial_choices", lambda logits, positions: positions + len(positions))
    assert Engine(small_orthrus(), CONFIG).exactness == "unverified"
    assert "rows that draw" in caplog.text


def test_equal_engines_have_equal_digests_and_other_weights_another_one():
    one, again, other = (Engine(small_orthrus(seed=seed), CONFIG) for seed in (0, 0, 1))
    assert one.report()["digest"] == again.report()["digest"] != other.report()["digest"]
