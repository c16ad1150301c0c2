"""The CNI plugin on a node's disk, beside other programs' files."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from troth.agent.cluster import cni_files
from troth.agent.cluster.cni_files import CONFIGURATION, CniFiles
from troth.agent.cluster.settings import CniFolders
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from pathlib import Path

BRIDGE = {"type": "bridge", "ipam": {"type": "host-local"}}
NETWORK = {"cniVersion": "1.0.0", "name": "net", "plugins": [BRIDGE], "disableCheck": True}


class Node:
    def __init__(self, root: Path) -> None:
        self.folders = CniFolders(
            program=root / "image" / "troth-cni",
            programs=root / "bin",
            configurations=root / "net.d",
            state=root / "state" / "mesh.json",
        )
        self.changes: list[tuple[bool | None, str]] = []
        for folder in ("image", "bin", "net.d", "state"):
            (root / folder).mkdir()
        self.folders.program.write_bytes(b"the program")
        self.folders.state.write_text("the state")
        self.files = CniFiles(
            self.folders,
            socket=root / "cni.sock",
            on_change=lambda: self.changes.append((self.files.is_installed, self.files.trouble)),
        )
        self.entry = {
            "type": "troth-cni",
            "socket": f"{root}/cni.sock",
            "state": f"{root}/state/mesh.json",
            "exempt": ["kube-system"],
        }

    def write(self, name: str, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folders.configurations / name).write_text(text)

    @property
    def ours(self) -> Any:
        path = self.folders.configurations / CONFIGURATION
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_files, "_REWRITE_SECONDS", 0.05)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_first_network_is_used_with_the_plugin_behind_its_own(node: Node) -> None:
    node.write("10-net.conflist", NETWORK)
    node.write("20-other.conflist", {**NETWORK, "name": "other"})
    assert node.files.put()
    assert node.ours == {**NETWORK, "plugins": [BRIDGE, node.entry]}
    program = node.folders.programs / "troth-cni"
    assert (program.read_bytes(), program.stat().st_mode & 0o777) == (b"the program", 0o755)
    names = sorted(path.name for path in node.folders.configurations.iterdir())
    assert names == [CONFIGURATION, "10-net.conflist", "20-other.conflist"]  # and nothing else


def test_a_network_of_one_plugin_becomes_a_list(node: Node) -> None:
    single = {"cniVersion": "0.3.1", "name": "net", **BRIDGE}
    node.write("10-net.conf", single)
    assert node.files.put()
    assert node.ours == {
        "cniVersion": "0.3.1",
        "name": "net",
        "plugins": [single, node.entry],
    }


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"name": "net"}', '{"name": "net", "plugins": [{}]}', '{"plugins": []}'],
)
def test_what_is_no_network_is_passed_over(node: Node, content: str) -> None:
    node.write("05-bad.conflist", content)
    node.write("06-not.txt", NETWORK)
    node.write("10-net.conflist", NETWORK)
    assert node.files.put()
    assert node.ours["name"] == "net"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("10-net.txt", NETWORK, "there is no configuration of a network"),
        ("10-net.conflist", {**NETWORK, "cniVersion": "0.2.0"}, "plugins can't be chained"),
        ("00-multus.conf", {**NETWORK, "type": "multus-shim"}, "is Multus's"),
        ("-net.conflist", NETWORK, f"-net.conflist sorts before {CONFIGURATION}"),
    ],
)
def test_where_the_plugin_can_t_be_chained_the_network_stays_as_it_is(
    node: Node, name: str, content: Any, problem: str
) -> None:
    node.write(CONFIGURATION, NETWORK)
    node.write(name, content)
    with pytest.raises(EnvironmentLackError, match=problem):
        node.files.put()
    assert node.ours is None


def test_a_folder_that_can_t_be_written_to_is_named_with_its_value(node: Node) -> None:
    node.write("10-net.conflist", NETWORK)
    node.folders.programs.rmdir()
    node.folders.programs.write_text("no folder")
    with pytest.raises(EnvironmentLackError, match=r"bin can't be .*; set node\.cni\.programs"):
        node.files.put()
    assert node.ours is None


def test_a_folder_that_isn_t_there_is_one_without_a_network(node: Node) -> None:
    node.folders.configurations.rmdir()
    with pytest.raises(EnvironmentLackError, match=r"no configuration .* set node\.cni\.conf"):
        node.files.put()


def test_what_somebody_has_chained_by_hand_is_left_alone(node: Node) -> None:
    node.write("10-net.conflist", {**NETWORK, "plugins": [BRIDGE, node.entry]})
    assert node.files.put()
    assert node.ours is None


def test_all_is_taken_away_and_not_put_back(node: Node) -> None:
    node.write("10-net.conflist", NETWORK)
    assert node.files.put()
    node.files.remove()
    assert not node.folders.state.parent.exists()
    assert [path.name for path in node.folders.configurations.iterdir()] == ["10-net.conflist"]
    assert list(node.folders.programs.iterdir()) == []
    node.files.remove()  # again is no error


async def test_what_others_do_to_the_files_is_undone(node: Node) -> None:
    async def until(condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)

    program, ours = node.folders.programs / "troth-cni", node.folders.configurations / CONFIGURATION
    task = asyncio.create_task(node.files.run())
    try:
        await until(lambda: node.files.trouble)
        assert "there is no configuration of a network" in node.files.trouble
        node.write("10-net.conflist", NETWORK)
        await until(lambda: node.files.is_installed and not node.files.trouble)
        ours.rename(ours.with_suffix(".bak"))
        await until(ours.exists)
        program.write_bytes(b"another")
        await until(lambda: program.read_bytes() == b"the program")
        node.write("10-net.conflist", {**NETWORK, "name": "changed"})
        await until(lambda: node.ours["name"] == "changed")
        (node.folders.configurations / "10-net.conflist").unlink()
        await until(lambda: node.ours is None and node.files.trouble)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [installed for installed, _ in node.changes] == [False, True, False]
