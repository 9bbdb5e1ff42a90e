"""The cluster that jobs are submitted to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.local_cluster import Cluster, local_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Of two nodes, with token authentication; started once."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), head_cpus=3) as found:
        found.add(cpus=3)
        yield found
