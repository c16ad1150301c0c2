"""Machines that a kubelet and a container runtime take for whole ones."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.machine import CgroupTree, Machine, remove_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

_BOOT = Path(__file__).with_name("boot.sh")
_INHERITED = ("cpuset.cpus", "cpuset.mems")


class CgroupTrees(CgroupTree):
    """A part of its own in every cgroup hierarchy of version 1.

    Args:
        name: What to call each part.

    Attributes:
        roots: The parts.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, version=1)
        self.roots: list[Path] = [hierarchy / name for hierarchy in _hierarchies()]
        if self.root not in self.roots:
            raise OSError("nodes need cgroup hierarchies of version 1, systemd's own among them")

    def joined(self, path: str) -> list[Path]:
        """The groups at ``path``, one in each hierarchy, made if need be."""
        for root in self.roots:
            for part in (Path(), *reversed(Path(path).parents), Path(path)):
                _make(root / part)
        return [root / path for root in self.roots]

    def make(self, path: str) -> Path:
        """Make the groups at ``path``; that in systemd's hierarchy."""
        self.joined(path)
        return self.root / path

    def remove(self, path: str = "") -> None:
        """End every process below ``path`` and remove the groups."""
        for root in self.roots:
            remove_groups(root / path)


class WholeMachine(Machine):
    """A machine with a root file system and cgroups of its own.

    Its disk outlives it: what a kubelet, a container runtime and CNI plugins keep there is found
    again when the machine is entered once more. All else that is written there goes with it.

    Args:
        name: Its host name.
        disk: The folder that is its disk.
        folders: What else is to be seen there, at the paths that it has here.
    """

    namespaces = (*Machine.namespaces, "--ipc")

    def __init__(self, name: str, disk: Path, folders: Sequence[Path]) -> None:
        super().__init__(name, disk)
        self.cgroups: CgroupTrees = CgroupTrees(f"troth-test-{name}-{uuid.uuid4().hex[:8]}")
        self._folders = folders

    def _prepare(self) -> tuple[str, ...]:
        self.directory.mkdir(exist_ok=True)
        return (str(_BOOT), self.name, str(self.directory), *map(str, self._folders))


def _make(group: Path) -> None:
    group.mkdir(exist_ok=True)
    # A group without them takes no process.
    for name in _INHERITED:
        file = group / name
        if file.exists() and not file.read_text().strip():
            file.write_text((group.parent / name).read_text())


def _hierarchies() -> list[Path]:
    """Where the hierarchies of version 1 are mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup":
            found.append(Path(before.split()[4]))
    return found
