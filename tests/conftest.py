"""What holds for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# nft lives where a plain user's PATH doesn't lead on Debian; `troth` itself sees to that.
os.environ["PATH"] += ":/usr/sbin:/sbin"

# Hypothesis: nothing that a busy machine trips over is a failure. `--hypothesis-profile` chooses.
settings.register_profile(
    "everyday", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# In CI the examples are the same in every run, so that a change is judged by what it changes.
settings.register_profile("ci", settings.get_profile("everyday"), derandomize=True, database=None)
settings.register_profile("long", settings.get_profile("everyday"), max_examples=5000)
settings.load_profile("ci" if os.environ.get("CI") else "everyday")

_LEFT_OUT = {
    "cluster": (
        pytest.StashKey[int](),
        "need a Kubernetes cluster and were left out: `make test-cluster` has one and runs them.",
    ),
    "servers": (
        pytest.StashKey[int](),
        "need Debian's servers and were left out: `make test-servers` unpacks those and runs them.",
    ),
    "nodes": (
        pytest.StashKey[int](),
        "need real nodes and were left out: `make test-nodes` makes those and runs them.",
    ),
}


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Counts the tests that a run leaves out because of what they need."""
    for item in items:
        for marker, (count, _) in _LEFT_OUT.items():
            if item.get_closest_marker(marker):
                item.config.stash[count] = item.config.stash.get(count, 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sends the counts from a worker of pytest-xdist; each has collected all tests."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        for marker, (count, _) in _LEFT_OUT.items():
            output[marker] = session.config.stash.get(count, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes them from a worker."""
    for marker, (count, _) in _LEFT_OUT.items():
        node.config.stash[count] = getattr(node, "workeroutput", {}).get(marker, 0)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tells how to run them."""
    for count, text in _LEFT_OUT.values():
        if left_out := config.stash.get(count, 0):
            terminalreporter.write_line(f"{left_out} tests {text}")


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.fail(f"{command}\n{done.stdout}{done.stderr}", pytrace=False)

    return run
