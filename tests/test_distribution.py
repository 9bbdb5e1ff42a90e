"""How tests are spread over processes: what is costly to make is made once."""

from __future__ import annotations

import pytest


def test_the_group_of_a_test_reaches_the_distribution(request: pytest.FixtureRequest) -> None:
    """Where it does not, tests are dealt one by one, and either process makes the shared run for itself."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("tests are not spread by group")
    assert request.node.nodeid.endswith("@" + str(request.node.path))
