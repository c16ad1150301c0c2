"""What the CNI plugin finds on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from troth.agent.cluster.mesh_file import MeshFile
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import MESH_LABEL, Namespace
from troth.mesh.world import World

if TYPE_CHECKING:
    from pathlib import Path

WORLD = World(
    trust_domain=TrustDomain.parse("cluster.local"),
    namespaces={
        "shop": Namespace(name="shop", labels={MESH_LABEL: "enabled"}),
        "tools": Namespace(name="tools"),
    },
)


async def test_the_file_says_what_is_in_the_mesh_and_what_went_wrong(tmp_path: Path) -> None:
    changed = asyncio.Event()
    folder = tmp_path / "state"
    file = MeshFile(folder / "mesh.json", on_change=changed.set)
    task = asyncio.create_task(file.run())
    try:
        folder.write_text("no folder")
        file.tell(WORLD, {"b", "a"})
        await changed.wait()
        assert (file.is_written, file.trouble) == (
            False,
            f"{folder}/mesh.json can't be written: File exists",
        )
        folder.unlink()
        async with asyncio.timeout(30):
            while not file.is_written:
                changed.clear()
                await changed.wait()
        assert file.trouble == ""
        assert json.loads((folder / "mesh.json").read_text()) == {
            "version": 1,
            "namespaces": {"shop": True, "tools": False},
            "out": ["a", "b"],
        }
        assert (folder / "mesh.json").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in folder.iterdir()] == ["mesh.json"]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_file_that_was_removed_is_written_again(tmp_path: Path) -> None:
    changed = asyncio.Event()
    path = tmp_path / "mesh.json"
    file = MeshFile(path, on_change=changed.set)
    task = asyncio.create_task(file.run())
    try:
        async with asyncio.timeout(30):
            file.tell(WORLD, ())
            await changed.wait()
            path.unlink()
            changed.clear()
            file.tell(WORLD, ())  # no news: nobody would write it
            assert not path.exists()
            file.write_again()
            assert not file.is_written
            await changed.wait()
        assert file.is_written
        assert json.loads(path.read_text())["namespaces"] == {"shop": True, "tools": False}
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
