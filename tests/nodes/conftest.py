"""The cluster of real nodes that the tests share, and troth on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.rig.nodes.cluster import RealCluster
from tests.rig.nodes.installation import Installation

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_HERE = Path(__file__).parent
_INSTALL = _HERE / "test_install.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.nodes)
    # They need a cluster without troth, and all others share one with it.
    items.sort(key=lambda item: item.path != _INSTALL)


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """Two nodes for all tests, with nothing on them but what a cluster has."""
    with RealCluster() as running:
        yield running


@pytest.fixture(scope="session")
def troth(cluster: RealCluster) -> Iterator[Installation]:
    """The one installation of troth that tests share."""
    with Installation(cluster) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lets a failed test tell what the cluster's programs said last, while there is a cluster."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and running is not None and report.when != "teardown":
        report.sections.append(("The programs of the cluster", running.last_words()))
        report.sections.append(("The pods of the cluster", running.describe()))
    return report
