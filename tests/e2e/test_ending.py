"""How a pod ends: its services let go of it first, then it has the time that it asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import Mesh, eventually
from tests.e2e.lingering import lingering
from tests.e2e.manifests import document, namespace, server, service
from tests.e2e.policies import clients, wait_serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.client import Client, Streams
    from tests.e2e.harness import Host
    from tests.e2e.manifests import Object

pytestmark = pytest.mark.e2e

FILE = "desk.yaml"
LABELS = {"app": "desk"}


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    objects = [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web"),
        *server("finance/payments", "http:8080"),
        *server("legacy/cron"),
        service("finance/payments", 8080),
    ]
    return {"mesh.yaml": document(objects)}


def go_on(*groups: Streams) -> None:
    for streams in groups:
        before = min(streams.rounds)
        eventually(lambda: min(streams.rounds) > before, what=f"progress ({streams.errors()})")  # noqa: B023 - used at once


@pytest.mark.parametrize("space", ["finance", "legacy"])
def test_services_let_go_of_a_pod_before_it_is_told_to_end_and_its_connections_go_on(
    mesh: Mesh, web: Client, cron: Client, tmp_path: Path, space: str
) -> None:
    def headless() -> Object:
        made = service(f"{space}/names", 8080)
        made["spec"] |= {"clusterIP": "None", "selector": LABELS}
        return made

    hook = "touch /linger/hooked; until [ -e /linger/unhook ]; do sleep 0.05; done"
    old = lingering(
        server(f"{space}/old", "http:8080", "echo:7000", labels=LABELS), tmp_path, pre_stop=hook
    )
    rest = [
        *server(f"{space}/new", "http:8080", "echo:7000", labels=LABELS),
        service(f"{space}/desk", 8080, 7000),
        headless(),
    ]
    mesh.write(FILE, document([*old, *rest]))
    eventually(lambda: len(mesh.status()["pods"]) == len(("web", "payments", "cron", "old", "new")))
    wait_serving(mesh)
    eventually(lambda: answers(cron, f"desk.{space}") == {"old", "new"}, what="both pods")
    addresses: list[str] = mesh.pod(f"{space}/old")["addresses"]
    with clients(mesh, f"{space}/old") as (inside,):
        open_ones = [
            *(each.streams(address, 7000) for each in (web, cron) for address in addresses),
            *(each.streams(f"desk.{space}", 7000, 6) for each in (web, cron)),
        ]
        mesh.write(FILE, document(rest))
        eventually((tmp_path / "hooked").exists, what="the preStop hook")
        # From now on nobody is sent there.
        for client in (web, cron, inside):
            assert answers(client, f"desk.{space}") == {"new"}
            assert answers(client, f"names.{space}") == {"new"}
        names = mesh.exec("legacy/cron", "getent", "ahosts", f"names.{space}").stdout
        assert names
        assert not [address for address in addresses if address in names]
        assert not (tmp_path / "told").exists()
        for step in ("unhook", "leave"):
            # Who knows it still gets there, and it gets anywhere.
            for address in addresses:
                assert {web.get(address, 8080).body, cron.get(address, 8080).body} == {"old 8080 /"}
            assert inside.get("payments.finance", 8080).body == "payments 8080 /"
            go_on(*open_ones)
            (tmp_path / step).touch()
            if step == "unhook":
                eventually((tmp_path / "told").exists, what="SIGTERM")
        eventually((tmp_path / "left").exists, what="its own end")
        mesh.delete(FILE)


def answers(client: Client, host: str) -> set[str]:
    """Who answers the connections to a name."""
    replies = [client.get(host, 8080) for _ in range(12)]
    return {reply.body.partition(" ")[0] if reply.body else reply.error for reply in replies}


def test_a_pod_waits_for_the_end_of_the_one_that_it_replaces(mesh: Mesh, tmp_path: Path) -> None:
    def write(version: str) -> None:
        pod = lingering(server("finance/store", "http:8080", version=version), tmp_path)
        mesh.write(FILE, document(pod))

    def store() -> dict[str, Any]:
        return next((p for p in mesh.status()["pods"] if p["name"] == "store"), {})

    write("1")
    eventually(lambda: store().get("ready"), what="the first one's readiness")
    write("2")
    eventually((tmp_path / "told").exists, what="SIGTERM")
    assert not store()
    assert (
        "finance/store: the pod that it replaces has not ended yet"
        in (mesh.status()["waiting_for"])
    )
    (tmp_path / "leave").touch()
    wait_serving(mesh)
    assert "VERSION=2" in mesh.exec("finance/store", "env").stdout
    mesh.delete(FILE)


@pytest.fixture
def gentle(host: Host, tmp_path: Path) -> Iterator[Mesh]:
    """A mesh whose pod takes its time to end."""
    objects = lingering(server("finance/web", "http:8080"), tmp_path)
    with Mesh(host, {"mesh.yaml": document(objects)}) as mesh:
        wait_serving(mesh)
        yield mesh


def test_down_waits_for_the_pods_to_end(gentle: Mesh, tmp_path: Path) -> None:
    down = gentle.start_troth("down")
    assert down.stderr is not None
    assert down.stderr.readline() == (
        "waiting up to 600 s for finance/web to end; Ctrl-C ends them at once\n"
    )
    assert (tmp_path / "told").exists()
    (tmp_path / "leave").touch()
    assert down.communicate()[1] == "stopped\n"
    assert down.returncode == 0
    assert (tmp_path / "left").exists()


@pytest.mark.parametrize("option", ["--now", "--grace-period=1"])
def test_down_can_be_told_to_wait_no_longer(gentle: Mesh, option: str) -> None:
    assert gentle.troth("down", option).stderr.endswith("stopped\n")
    assert not gentle.state.exists()


def test_ctrl_c_has_a_down_that_waits_end_at_once(gentle: Mesh) -> None:
    down = gentle.start_troth("down")
    assert down.stderr is not None
    assert "Ctrl-C ends them at once" in down.stderr.readline()
    gentle.host.run("pkill", "-INT", "-f", "troth down$")
    assert down.communicate()[1] == "ending them at once\nstopped\n"
    assert not gentle.state.exists()
