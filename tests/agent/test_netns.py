from __future__ import annotations

import errno
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from troth.agent import netns
from troth.errors import EnvironmentLackError, PeerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import InNode


OPERATIONS = [
    pytest.param(netns.inode, id="inode"),
    pytest.param(lambda path: netns.call_in(path, lambda: None), id="call_in"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_namespace_is_named_with_a_likely_cause(
    tmp_path: Path, operation: Callable[[Path], object]
) -> None:
    with pytest.raises(PeerError) as refused:
        operation(tmp_path / "gone")
    assert str(refused.value) == (
        f"network namespace {tmp_path}/gone: does not exist; its pod has ended or never started"
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("other", ["/dev/null", "/proc/self/ns/mnt", "/proc/self/status"])
def test_a_file_that_is_no_network_namespace_is_refused(
    other: str, operation: Callable[[Path], object]
) -> None:
    with pytest.raises(PeerError, match="the file there is none"):
        operation(Path(other))


def test_nothing_is_made_over_a_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("precious")
    with pytest.raises(PeerError, match="exists already"):
        netns.create(path)
    assert path.read_text() == "precious"


def test_removing_a_missing_namespace_is_fine(tmp_path: Path) -> None:
    netns.remove(tmp_path / "gone")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        pytest.param(errno.EPERM, "run as root, or in `unshare", id="no permission"),
        pytest.param(errno.ENOSPC, "user.max_net_namespaces", id="too many"),
        pytest.param(errno.ENOSYS, "CONFIG_NET_NS", id="no such kernel feature"),
    ],
)
def test_what_the_kernel_lacks_comes_with_a_remedy(number: int, remedy: str) -> None:
    error = netns._explain(OSError(number, "text"), Path("/run/x"), "make")
    assert isinstance(error, EnvironmentLackError)
    assert remedy in error.remedy


def test_the_entering_command_takes_the_path_as_one_argument() -> None:
    assert netns.enter_command(Path("/run/a b")) == ["nsenter", "--net=/run/a b", "--"]


def a_pinned_namespace_outlives_its_last_process(directory: Path) -> None:
    process = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    theirs = Path(f"/proc/{process.pid}/ns/net")
    own = netns.inode(Path("/proc/self/ns/net"))
    while netns.inode(theirs) == own:
        time.sleep(0.01)
    before = netns.inode(theirs)
    netns.pin(theirs, directory / "pinned")
    process.kill()
    process.wait()
    assert netns.inode(directory / "pinned") == before
    with pytest.raises(PeerError, match="exists already"):
        netns.pin(Path("/proc/self/ns/net"), directory / "pinned")
    netns.remove(directory / "pinned")
    assert not (directory / "pinned").exists()


def nothing_but_a_network_namespace_is_pinned(directory: Path) -> None:
    for other in ("/proc/self/ns/mnt", "/etc/passwd", "/proc/999999/ns/net"):
        with pytest.raises(PeerError):
            netns.pin(Path(other), directory / "pinned")
        assert not (directory / "pinned").exists()


@pytest.mark.parametrize(
    "scene",
    [a_pinned_namespace_outlives_its_last_process, nothing_but_a_network_namespace_is_pinned],
)
def test_pinning(scene: Callable[[Path], None], in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scene, tmp_path)
