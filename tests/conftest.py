"""What holds for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# nft lives where a plain user's PATH doesn't lead on Debian; `troth` itself sees to that.
os.environ["PATH"] += ":/usr/sbin:/sbin"

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


_RUNNER = Path(__file__).with_name("node_namespace.py")
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_AS_MAPPED_ROOT = ("--user", "--map-root-user")


class InNode(Protocol):
    """Calls a function of the test module in a fresh node namespace."""

    def __call__(self, function: Callable[..., Any], *arguments: str | Path) -> None: ...


@pytest.fixture
def in_node_namespace() -> InNode:
    """Runs ``function(*arguments)`` where this process is root over new namespaces.

    The function is found by its name in its module's file and runs in a new process; when it
    raises, the test fails with its output. To look around inside, run the printed command.
    """

    def run(function: Callable[..., Any], *arguments: str | Path) -> None:
        command = [
            *_UNSHARE,
            *(() if os.geteuid() == 0 else _AS_MAPPED_ROOT),
            "--",
            sys.executable,
            str(_RUNNER),
            function.__code__.co_filename,
            function.__name__,
            json.dumps([str(argument) for argument in arguments]),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.fail(f"{command}\n{done.stdout}{done.stderr}", pytrace=False)

    return run
