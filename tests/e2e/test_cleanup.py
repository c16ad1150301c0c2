"""The end of a mesh, however it comes to it: nothing may be left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import Mesh, eventually
from tests.e2e.lifetimes import CTRL_C, ONE_POD, THREE_PODS, Foreground, MakeMesh, leaving_nothing
from tests.e2e.lingering import lingering
from tests.e2e.manifests import document, server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("plain", [False, True], ids=["privileged", "plain user"])
def test_down_leaves_nothing_behind(make_mesh: MakeMesh, *, plain: bool) -> None:
    mesh = make_mesh(THREE_PODS, plain=plain)
    with leaving_nothing(mesh), mesh:
        assert mesh.status()["ready"]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGINT", "SIGTERM", "SIGHUP"])
def test_ending_a_mesh_in_the_foreground_leaves_nothing_behind(
    make_mesh: MakeMesh, how: str
) -> None:
    mesh = make_mesh(ONE_POD)
    with leaving_nothing(mesh):
        troth = Foreground(mesh)
        if how == "Ctrl-C":
            troth.type(CTRL_C)
        else:
            mesh.host.run("kill", f"-{how}", str(troth.pid))
        assert troth.wait() == 0


def test_a_second_ctrl_c_does_not_keep_the_first_from_cleaning_up(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(ONE_POD)
    with leaving_nothing(mesh):
        troth = Foreground(mesh)
        troth.type(CTRL_C)
        troth.read_until(b"stopping")
        troth.type(CTRL_C)
        assert troth.wait() == 0


def test_ctrl_c_waits_for_the_pods_to_end_and_another_one_does_not(
    make_mesh: MakeMesh, tmp_path: Path
) -> None:
    mesh = make_mesh(
        {"mesh.yaml": document(lingering(server("finance/web", "http:8080"), tmp_path))}
    )
    with leaving_nothing(mesh):
        troth = Foreground(mesh)
        troth.type(CTRL_C)
        troth.read_until(b"waiting up to 600 s for finance/web to end")
        assert running(mesh)
        troth.type(CTRL_C)
        troth.read_until(b"ending them at once")
        assert troth.wait() == 0
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize("reached", ["lock", "settings.json", "pid", "control.sock", "pods"])
def test_ctrl_c_while_a_mesh_starts_leaves_nothing_behind(
    make_mesh: MakeMesh, reached: str
) -> None:
    mesh = make_mesh(ONE_POD)
    with leaving_nothing(mesh):
        troth = Foreground(mesh, ready=False)
        eventually((mesh.state / reached).exists, what=f"{reached} of the state directory")
        troth.type(CTRL_C)
        assert troth.wait() in {0, 130}, troth.output  # 0 where it was ready just before


def first_process(mesh: Mesh) -> int:
    """As the host numbers it."""
    pid: int = json.loads((mesh.state / "pid").read_bytes())["pid"]
    return pid


def running(mesh: Mesh) -> bool:
    return mesh.on_node("true", check=False).returncode == 0


@pytest.mark.parametrize("gentle", [False, True], ids=["", "with a pod that takes its time"])
def test_a_mesh_ends_with_the_killed_command_in_the_foreground(
    make_mesh: MakeMesh, tmp_path: Path, *, gentle: bool
) -> None:
    pod = lingering(server("finance/web", "http:8080"), tmp_path)
    mesh = make_mesh({"mesh.yaml": document(pod)} if gentle else ONE_POD)
    with leaving_nothing(mesh):
        troth = Foreground(mesh)
        mesh.host.run("kill", "-KILL", str(troth.pid))
        troth.wait()
        eventually(lambda: not running(mesh), what="its end")
        with mesh:  # the next one works, and cleans up what is left
            assert mesh.status()["ready"]


def test_the_command_in_the_foreground_ends_and_cleans_up_when_its_mesh_is_killed(
    make_mesh: MakeMesh,
) -> None:
    mesh = make_mesh(ONE_POD)
    with leaving_nothing(mesh):
        troth = Foreground(mesh)
        mesh.host.run("kill", "-KILL", str(first_process(mesh)))
        assert troth.wait() == 1


@pytest.mark.parametrize("plain", [False, True], ids=["privileged", "plain user"])
@pytest.mark.parametrize("after", ["up", "down"])
def test_a_killed_mesh_is_cleaned_up_by_the_next_command(
    make_mesh: MakeMesh, after: str, *, plain: bool
) -> None:
    mesh = make_mesh(ONE_POD, plain=plain)
    with leaving_nothing(mesh):
        mesh.up()
        mesh.host.run("kill", "-KILL", str(first_process(mesh)))
        eventually(lambda: not running(mesh), what="its end")
        if after == "up":
            mesh.up()
            assert mesh.status()["ready"]
        mesh.troth("down")


@pytest.mark.parametrize("plain", [False, True], ids=["privileged", "plain user"])
def test_two_meshes_run_side_by_side(make_mesh: MakeMesh, *, plain: bool) -> None:
    one = make_mesh(ONE_POD, plain=plain)
    with leaving_nothing(one), one, make_mesh(ONE_POD, plain=plain) as other:
        other.troth("down")
        assert one.status()["ready"]
        other.up()
        assert one.status()["ready"]
        assert other.status()["ready"]
