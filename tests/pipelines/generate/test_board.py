"""What driver and engines tell each other."""

import asyncio

import pytest

from pipelines.generate.board import Board, BoardState, open_board


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


@pytest.mark.ray
def test_driver_and_engine_meet_on_a_board_in_ray(local_ray):
    board = open_board()
    assert asyncio.run(board.begin((0, 0)))
    board.post("a", {"rows": 2})
    assert (board.stop(), board.look()) == ({(0, 0)}, {"begun": 1, "actors": {"a": {"rows": 2}}})
    assert not asyncio.run(board.begin((0, 1)))


@pytest.mark.ray
def test_a_board_that_is_gone_stops_no_unit(local_ray):
    import ray

    board = open_board()
    ray.kill(board._state)
    assert asyncio.run(board.begin((0, 0)))
    assert Board(board._state).stop() is None
    assert board.look() == {}
