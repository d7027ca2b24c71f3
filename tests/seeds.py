"""Seeds of tests that try random traffic: a few in every run of the tests, more in the slow ones."""

import pytest

ALWAYS = 2


def seeds(count: int) -> list:
    """Return `count` parameters of a test, those past the first ALWAYS marked slow."""
    return [seed if seed < ALWAYS else pytest.param(seed, marks=pytest.mark.slow) for seed in range(count)]
