"""What holds for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_left_out = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Counts the cluster tests that a run leaves out."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.config.stash[_left_out] = item.config.stash.get(_left_out, 0) + 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tells how to run them."""
    if count := config.stash.get(_left_out, 0):
        terminalreporter.write_line(
            f"{count} tests need a Kubernetes cluster and were left out: `make test-cluster` runs"
            " them on one of its own."
        )
