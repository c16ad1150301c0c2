"""What holds for all tests."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Else each worker, and each command that a test starts, compiles troth again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

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
    "browser": (
        pytest.StashKey[int](),
        "need Chromium and were left out: `make test-browser` installs that and runs them.",
    ),
    "nodes": (
        pytest.StashKey[int](),
        "need real nodes and were left out: `make test-nodes` makes those and runs them.",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the slow tests on meshes, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.parent.name != "e2e")


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
_RUN_SECONDS = 120


class InNode(Protocol):
    """Calls a function of the test module in a fresh node namespace."""

    def __call__(self, function: Callable[..., Any], *arguments: str | Path) -> None: ...


class _Runner:
    """A process that has imported a test module and runs functions of it in new namespaces."""

    def __init__(self, file: str) -> None:
        self._command = [sys.executable, str(_RUNNER), file]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, output: Path, name: str, *arguments: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps([str(output), name, *arguments])
        self._process.stdin.write(f"{request}\n".encode())
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _RUN_SECONDS)
        if not ready:
            self._process.kill()
        code = self._process.stdout.readline().strip()
        if code != b"0":
            text = output.read_text() if output.exists() else "it has not even begun"
            pytest.fail(f"{request} to {self._command}\n{code!r}\n{text}", pytrace=False)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def _runners() -> Iterator[dict[str, _Runner]]:
    runners: dict[str, _Runner] = {}
    yield runners
    for runner in runners.values():
        runner.close()


@pytest.fixture
def in_node_namespace(
    _runners: dict[str, _Runner], tmp_path_factory: pytest.TempPathFactory
) -> InNode:
    """Runs ``function(*arguments)`` where this process is root over new namespaces.

    The function is found by its name in its module's file; when it raises, the test fails with its
    output. To look around inside, give the printed command the printed line.
    """

    def run(function: Callable[..., Any], *arguments: str | Path) -> None:
        file = function.__code__.co_filename
        runner = _runners.get(file) or _runners.setdefault(file, _Runner(file))
        output = tmp_path_factory.mktemp("node") / "output"
        runner.run(output, function.__name__, *map(str, arguments))

    return run
