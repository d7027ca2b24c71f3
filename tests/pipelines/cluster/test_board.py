"""What driver and engines tell each other."""

import asyncio
from dataclasses import replace

import pytest

from pipelines.cluster.board import Board, BoardState, open_board
from pipelines.generate.decode.actor import GenerateActor
from pipelines.generate.decode.spec import new_actor_spec
from tests.fakes import fake_engine
from tests.pipelines.conftest import generate_tree, job_of
from tests.processes import wait_until


def test_after_a_stop_no_further_unit_begins():
    state = BoardState()
    assert state.begin((0, 0))
    assert state.stop() == {(0, 0)}
    assert not state.begin((0, 1))
    assert state.stop() == {(0, 0)}


def test_a_unit_whose_actor_died_begins_again_after_a_stop():
    state = BoardState()
    state.begin((0, 0))
    state.stop()
    assert state.begin((0, 0))


def test_the_last_figures_of_an_actor_are_kept():
    state = BoardState()
    state.post("a", {"rows": 1})
    state.post("a", {"rows": 2})
    state.post("b", {"rows": 3})
    assert state.look() == {"begun": 0, "actors": {"a": {"rows": 2}, "b": {"rows": 3}}}


def answers(actor) -> bool:
    """Whether an actor lives, and is not only about to be started again."""
    import ray

    try:
        ray.get(actor.__ray_ready__.remote())
    except ray.exceptions.ActorDiedError:
        return False
    return True


@pytest.mark.ray
def test_driver_and_engine_meet_on_a_board_in_ray(local_ray):
    board = open_board()
    assert asyncio.run(board.begin((0, 0)))
    board.post("a", {"rows": 2})
    assert (board.stop(), board.look()) == ({(0, 0)}, {"begun": 1, "actors": {"a": {"rows": 2}}})
    assert not asyncio.run(board.begin((0, 1)))


@pytest.mark.ray
def test_an_engine_ends_with_its_run_though_somebody_still_holds_it(
    local_ray, model_dir, many_prompts, tmp_path
):
    """As Ray Data now and then does after a failure: the next run would wait for its CPU for ever."""
    import ray

    tree = generate_tree(model_dir, many_prompts, tmp_path / "out", unit_rows=64)
    job = job_of(tree)
    board = open_board()
    spec = replace(new_actor_spec(job, is_local=True), board=board)
    engine = ray.remote(GenerateActor).options(num_cpus=0, max_restarts=3).remote(spec, fake_engine)
    ray.get(engine.__ray_ready__.remote())
    board.close()
    wait_until(lambda: not answers(engine), 60, look_s=0.2)


@pytest.mark.ray
def test_a_board_that_is_gone_stops_no_unit(local_ray):
    import ray

    board = open_board()
    ray.kill(board._state)
    assert asyncio.run(board.begin((0, 0)))
    assert Board(board._state).stop() is None
    assert board.look() == {}
