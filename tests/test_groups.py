"""What `make test` relies on in pytest-xdist."""

import pytest


def test_tests_of_a_file_reach_the_scheduler_as_one_group(request):
    """Else each process makes every module's fixtures: pytest 9.2 hides node ids from pytest-xdist 3.8."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("one process, or no groups")
    assert request.node.nodeid.endswith(f"@{request.node.path}")
