"""Two processes end with the weights of one; see `two_ranks.py` for what they run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orthrus_core.errors import ConfigError
from orthrus_core.training.parallel import Parallel
from orthrus_core.training.reduction import _buckets
from tests.orthrus_core.training.two_ranks import (
    ACCUMULATE,
    MODES,
    OPTIMIZERS,
    WORLD_SIZE,
    batches_of,
    held_in_bfloat16,
    sharded_muon_case,
    trainer,
    whole_backbone,
)

ROOT = Path(__file__).parents[3]
CASES = [(mode, kind) for mode in MODES for kind in OPTIMIZERS]
TOLERANCE = {"adamw": 1e-3, "muon": 5e-2}  # of the movement; Muon lifts rounding noise to BF16's size


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks saw, and the state that one process saved for them to load."""
    directory = tmp_path_factory.mktemp("ranks")
    for kind in OPTIMIZERS:
        torch.save(half_run(kind)[0], directory / f"half-{kind}.pt")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.orthrus_core.training.two_ranks"]
    processes = [
        subprocess.Popen([*command, str(rank), str(directory)], cwd=ROOT, env=environment)
        for rank in range(WORLD_SIZE)
    ]
    try:
        assert [process.wait(timeout=220) for process in processes] == [0] * WORLD_SIZE
    finally:
        for process in processes:
            process.kill()
    return [torch.load(directory / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


def half_run(kind: str):
    """Saved by one process after two of four steps, and the batches that come after."""
    run, stream = trainer(kind, None, accumulate=ACCUMULATE * WORLD_SIZE), batches_of(0, 1)
    run.run(iter(stream[:8]))
    state = run.state_dict()
    state["progress"]["finished"] = False
    return state, stream[8:]


@pytest.fixture(scope="module")
def alone():
    """By optimiser: the weights before, and the state after four steps of one process."""
    results = {}
    for kind in OPTIMIZERS:
        run = trainer(kind, None, accumulate=ACCUMULATE * WORLD_SIZE)
        before = run.state_dict()["parameters"]
        run.run(iter(batches_of(0, 1)))
        results[kind] = (before, run.state_dict())
    return results


def assert_alike(parameters, alone, kind):
    before, expected = alone[kind]
    assert parameters.keys() == expected["parameters"].keys()
    for name, value in expected["parameters"].items():
        moved = (value - before[name]).norm()
        assert (parameters[name] - value).norm() < TOLERANCE[kind] * moved, name


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_two_processes_end_with_the_weights_of_one(ranks, alone, mode, kind):
    state = ranks[0][f"{mode} {kind} 0"]
    assert_alike(state["parameters"], alone, kind)
    # the last step has one batch less on rank 1
    progress = alone[kind][1]["progress"]
    assert (state["progress"]["step"], state["progress"]["tokens"]) == (4, progress["tokens"])


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_a_run_repeated_has_the_same_bits(ranks, mode, kind):
    first, second = (ranks[0][f"{mode} {kind} {attempt}"]["parameters"] for attempt in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_a_state_of_one_process_is_gone_on_with_by_two(ranks, alone, mode, kind):
    assert_alike(ranks[0][f"{mode} {kind} from one"]["parameters"], alone, kind)


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_a_state_of_two_processes_is_gone_on_with_by_one(ranks, alone, mode, kind):
    run = trainer(kind, None, accumulate=ACCUMULATE * WORLD_SIZE)
    run.load_state_dict(ranks[0][f"{mode} {kind} half"])
    run.run(iter(half_run(kind)[1]))
    assert_alike(run.state_dict()["parameters"], alone, kind)


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_two_processes_interrupted_and_resumed_end_with_the_same_bits(ranks, mode, kind):
    whole, resumed = ranks[0][f"{mode} {kind} 0"], ranks[0][f"{mode} {kind} resumed"]
    assert all(torch.equal(resumed["parameters"][name], value) for name, value in whole["parameters"].items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "run"), [("bfloat16", held_in_bfloat16), ("backbone", whole_backbone)])
def test_other_trainings_end_with_the_weights_of_one_process(ranks, mode, name, run):
    # frozen weights of another dtype beside the trained ones; trained embeddings that are not sharded
    expected = run(None, batches_of(0, 1), ACCUMULATE * WORLD_SIZE)
    state = ranks[0][f"{mode} {name}"]
    for key, value in expected["parameters"].items():
        moved = (value - expected["before"]["parameters"][key]).norm()
        assert (state["parameters"][key] - value).norm() < 1e-3 * moved, key


@pytest.mark.parametrize("mode", MODES)
def test_a_sharded_model_is_gathered_whole_on_rank_0_and_trained_tensors_alone_moved(ranks, alone, mode):
    state, other = (rank[f"{mode} adamw whole"] for rank in ranks)
    assert other == {}
    original = trainer("adamw", None)._objective.module.state_dict()
    assert state.keys() == original.keys()
    for name, value in original.items():
        assert torch.equal(state[name], value) == ("_diff" not in name), name
    assert state["lm_head.weight"] is state["model.embed_tokens.weight"]


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_a_nan_on_one_rank_stops_both_in_the_same_step_with_nothing_updated(ranks, mode, kind):
    first, second = (rank[f"{mode} {kind} diverged"] for rank in ranks)
    assert (first["step"], second["step"]) == (2, 2)
    assert (first["is_here"], second["is_here"]) == (False, True)
    # rank 0 has no bad rows and names both its batches, rank 1 the one
    assert (len(first["ids"]), len(second["ids"])) == (4, 2)
    assert torch.equal(second["ids"], batches_of(1, WORLD_SIZE)[3].input_ids)
    for name, value in first["saved"]["parameters"].items():
        assert torch.equal(first["now"]["parameters"][name], value)


def test_muon_on_shards_is_muon_on_whole_matrices(ranks):
    expected = sharded_muon_case(None)
    assert all(torch.equal(a, b) for a, b in zip(ranks[0]["muon on shards"], expected, strict=True))


def test_gradients_of_all_backwards_and_ranks_add_up_whichever_are_missing(ranks):
    # rank 0 gives 1 + 10 to a and b, rank 1 gives 2 + 20 to b and c
    expected = [torch.full((2,), value) for value in (11.0, 33.0, 22.0)]
    assert all(torch.equal(torch.stack(rank["sums"]), torch.stack(expected)) for rank in ranks)


def test_a_rank_without_any_batch_is_an_error_on_both(ranks):
    assert [rank["no batch"] for rank in ranks] == [
        "1 processes have no batch to train on: use fewer processes"
    ] * 2


def test_ranks_that_are_one_hold_half_of_every_layer_each(ranks):
    assert [rank["fsdp2 share of a layer"] for rank in ranks] == [0.5, 0.5]


def test_a_mode_without_process_group_is_refused():
    with pytest.raises(ConfigError, match="parallel mode ddp needs torch.distributed"):
        Parallel("ddp")


def test_buckets_hold_neighbours_up_to_their_size():
    sizes = [3, 3, 9, 1, 1]
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    assert [[p.numel() for p in bucket] for bucket in _buckets(parameters, 4 * 6)] == [[3, 3], [9], [1, 1]]
