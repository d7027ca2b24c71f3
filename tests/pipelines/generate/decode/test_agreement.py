"""Engines of one run that would choose other budgets or kernels."""

from dataclasses import replace

from pipelines.cluster.board import BoardState
from pipelines.generate.decode.agreement import load_alike
from tests.fakes import FakeEngine
from tests.pipelines.generate.decode.test_actor import spec  # noqa: F401

SETTINGS = {"token_budget": 64, "budgets": [16, 64], "compiled": False, "linear": "native"}


class Choosing(FakeEngine):
    """An engine that chooses as it is told."""

    def __init__(self, settings: dict):
        super().__init__()
        self._settings = settings

    def report(self):
        return super().report() | self._settings


def loads(spec, board, *chosen: dict) -> list[list]:  # noqa: F811
    """Load an engine per choice, in one run; return the options of every start."""
    starts = []
    for settings in chosen:

        def load(asked, settings=settings):
            starts[-1].append(asked.decode)
            return Choosing(settings)

        starts.append([])
        load_alike(replace(spec, board=board), load)
    return starts


def test_an_engine_that_chooses_as_the_first_one_starts_once(spec):  # noqa: F811
    assert list(map(len, loads(spec, BoardState(), SETTINGS, SETTINGS))) == [1, 1]


def test_one_that_chooses_otherwise_starts_again_with_what_the_first_one_has(spec):  # noqa: F811
    other = SETTINGS | {"budgets": [64], "linear": "plain"}
    first, second = loads(spec, BoardState(), SETTINGS, other)
    assert len(first) == 1
    assert (second[1].budgets, second[1].linear, second[1].compile) == ((16, 64), "native", "off")


def test_a_board_that_does_not_answer_leaves_every_engine_its_own_choice(spec):  # noqa: F811
    class Silent:
        def settle(self, settings):
            return None

    assert list(map(len, loads(spec, Silent(), SETTINGS, SETTINGS | {"linear": "plain"}))) == [1, 1]
