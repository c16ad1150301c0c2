"""The cluster that the tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.rig.harness import Cluster

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of three nodes for all tests; each makes namespaces of its own."""
    with Cluster() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lets a failed test tell what the cluster's programs said last."""
    report = yield
    for name in ("cluster", "mesh"):
        running = getattr(item, "funcargs", {}).get(name)
        if report.failed and running is not None:
            report.sections.append((f"The programs of the {name}", running.last_words()))
    return report
