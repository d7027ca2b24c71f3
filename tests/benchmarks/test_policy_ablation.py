"""The ablation of the block policy still finds all the parts that it takes away."""

import pytest

from tests.benchmarks import policy_ablation
from tests.benchmarks.policy_ablation import ABLATIONS, Cell, rate

SMALLEST = Cell("cpu", "tail", 2)  # that every part has a say in


@pytest.fixture(autouse=True)
def _short_texts(monkeypatch):
    monkeypatch.setattr(policy_ablation, "TOKENS", {2: 60})


@pytest.mark.parametrize("part", ABLATIONS)
def test_the_policy_runs_without_a_part(part):
    assert rate(SMALLEST, range(1), part) > 0


def test_the_host_time_of_deals_is_told_with_resting_and_without(capsys, monkeypatch):
    monkeypatch.setitem(policy_ablation.TOKENS, 2, 250)  # enough deals for a mean
    policy_ablation._say_host_time()
    said = capsys.readouterr().out
    assert said.startswith("a deal of 2 sequences of hard text: ")
    assert "nan" not in said
