"""When a mesh may call itself ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from troth.control.state_dir import Settings, StateDirectory
from troth.identity.spiffe import TrustDomain
from troth.local.mesh import LocalMesh
from troth.local.nameserver import NameServer
from troth.mesh.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from troth.agent.agent import NodeAgent
    from troth.local.network import Network


def _mesh(tmp_path: Path) -> LocalMesh:
    agent = cast("NodeAgent", SimpleNamespace(is_settled=True))
    network = cast("Network", SimpleNamespace())
    return LocalMesh(
        Settings(paths=()), StateDirectory(tmp_path), network, agent, name_server=NameServer(())
    )


def test_a_mesh_is_not_ready_before_it_has_acted_on_its_manifests(tmp_path: Path) -> None:
    assert _mesh(tmp_path).waiting_for() == ("the manifests",)


def test_a_mesh_is_not_ready_while_a_change_has_not_been_acted_on(tmp_path: Path) -> None:
    mesh = _mesh(tmp_path)
    mesh.world = World(trust_domain=TrustDomain("cluster.local"))
    assert mesh.waiting_for() == ()
    mesh.wake()
    assert mesh.waiting_for() == ("what has just changed",)
