"""What the mesh must carry byte for byte: the ways real protocols use a connection."""

from __future__ import annotations

import textwrap
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.e2e import apps
from tests.e2e.apps import Session, play, said
from tests.e2e.harness import Mesh, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.harness import Host

pytestmark = pytest.mark.e2e

CLIENT, SERVER = "shop/client", "shop/server"
CLIENTS = (CLIENT, SERVER, "shop/pool-0", "shop/pool-1", "shop/pool-2")
STRICT = apps.policy("STRICT", namespace="shop")


@pytest.fixture(scope="module")
def unready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replicas of ``pool`` that have a file here aren't ready."""
    return tmp_path_factory.mktemp("unready")


@pytest.fixture(scope="module")
def mesh(shared_host: Host, unready: Path) -> Iterator[Mesh]:
    manifests = {
        "shop.yaml": apps.namespace("shop") + apps.idle_pod("client", namespace="shop"),
        "server.yaml": apps.server("server", namespace="shop"),
        "pool.yaml": pool(3, unready),
        "sticky.yaml": sticky("ClientIP"),
        "policy.yaml": STRICT,
    }
    with Mesh(shared_host, manifests) as running:
        eventually(lambda: running.fetch(CLIENT, f"http://server:{apps.HTTP}/"), what="an answer")
        yield running
        # Whatever the traffic, it was under mutual TLS.
        # (Before the servers were ready there was nowhere to go.)
        seen = [event for event in running.events() if event["reason"] != "no_endpoints"]
        assert {event["outcome"] for event in seen} == {"accepted"}


@pytest.fixture(scope="module")
def homes(mesh: Mesh) -> dict[str, set[str]]:
    """Who answers each client's connections to the service with affinity."""
    return {client: stuck(mesh, client, 100) for client in CLIENTS}


def test_a_kept_alive_connection_carries_500_requests(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "keep_alive", "server", apps.HTTP, 500)
    assert seen == {"wrong": []}


def test_a_download_of_1_gib_arrives_byte_for_byte(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "download", "server", apps.DOWNLOAD, 1024)
    assert seen["missing"] == 0
    assert seen["ours"] == seen["theirs"]


def test_an_upload_of_1_gib_arrives_byte_for_byte(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "upload", "server", apps.UPLOAD, 1024)
    assert seen["ours"] == seen["theirs"]


def test_1000_connections_are_open_at_once_and_none_gets_the_bytes_of_another(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "crowd", "server", apps.ECHO, 1000)
    assert seen == {"good": 1000}


def test_a_server_may_speak_first(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "listen_first", "server", apps.SPEAK_FIRST, "client")
    assert seen == {"greeting": "220 ready\n", "answer": "250 hello client\n"}


def test_a_client_that_ended_its_half_still_gets_the_answer(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "upload", "server", apps.UPLOAD, 1)
    assert seen["ours"] == seen["theirs"]


def test_a_server_that_ended_its_half_still_hears_the_client_out(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "outlast", "server", apps.END_FIRST, 1)
    assert seen["heard"] == "that is all\n"
    said(mesh, SERVER, "heard", received=seen["sent"])


def test_a_slow_reader_gets_all_of_what_a_server_sent_before_it_closed(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "sip", "server", apps.GUSH)
    said(mesh, SERVER, "gushed", sent=seen["received"])


def test_a_slow_server_gets_all_of_what_a_client_sent_before_it_closed(mesh: Mesh) -> None:
    seen = play(mesh, CLIENT, "gush", "server", apps.SIP)
    said(mesh, SERVER, "sipped", received=seen["sent"])


def test_the_reset_of_a_client_reaches_the_server(mesh: Mesh) -> None:
    assert play(mesh, CLIENT, "abort", "server", apps.WATCH_END) == {"heard": "watching\n"}
    assert said(mesh, SERVER, "end")["how"] == "reset"


def test_the_reset_of_a_server_reaches_the_client(mesh: Mesh) -> None:
    assert play(mesh, CLIENT, "provoke", "server", apps.ABORT) == {"end": "reset"}


def test_a_pod_reaches_itself_by_its_own_service(mesh: Mesh) -> None:
    seen = play(mesh, SERVER, "listen_first", "server", apps.SPEAK_FIRST, "myself")
    assert seen["answer"] == "250 hello myself\n"


def test_a_session_answers_commands_one_by_one_and_in_a_pipeline(mesh: Mesh) -> None:
    with Session(mesh, CLIENT, "server") as session:
        for number in range(200):
            session.ask(f"GET {number}")
        session.ask(*(f"INCR {number}" for number in range(1000)))
        assert session.end() == 0


def test_a_session_outlives_every_change_of_policy(mesh: Mesh) -> None:
    with Session(mesh, CLIENT, "server") as session:
        for mode in ("PERMISSIVE", "DISABLE", "STRICT"):
            mesh.write("policy.yaml", apps.policy(mode, namespace="shop"))
            asked_until(session, partial(in_mode, mesh, mode))
            session.ask("still there")
        assert session.end() == 0


def test_connections_to_a_service_are_spread_over_its_ready_replicas(
    mesh: Mesh, unready: Path
) -> None:
    eventually(lambda: answering(mesh) == {"pool-0", "pool-1", "pool-2"})
    (unready / "pool-1").touch()
    eventually(lambda: answering(mesh) == {"pool-0", "pool-2"})
    (unready / "pool-1").unlink()
    eventually(lambda: answering(mesh) == {"pool-0", "pool-1", "pool-2"})


def test_a_session_outlives_every_change_of_its_services_other_replicas(
    mesh: Mesh, unready: Path
) -> None:
    with session_with(mesh, "pool-0") as session:
        mesh.write("pool.yaml", pool(1, unready))
        asked_until(session, lambda: answering(mesh) == {"pool-0"})
        mesh.write("pool.yaml", pool(3, unready))
        asked_until(session, lambda: answering(mesh) == {"pool-0", "pool-1", "pool-2"})
        assert session.ask("still there") == {"pool-0"}
        assert session.end() == 0


def test_a_session_outlives_the_readiness_of_its_replica(mesh: Mesh, unready: Path) -> None:
    with session_with(mesh, "pool-0") as session:
        (unready / "pool-0").touch()
        asked_until(session, lambda: answering(mesh) == {"pool-1", "pool-2"})
        assert session.ask("still there") == {"pool-0"}
        (unready / "pool-0").unlink()
        asked_until(session, lambda: "pool-0" in answering(mesh))
        assert session.end() == 0


def test_a_client_of_a_service_with_affinity_stays_with_one_endpoint(
    homes: dict[str, set[str]],
) -> None:
    assert {len(names) for names in homes.values()} == {1}
    assert len(set.union(*homes.values())) > 1


def test_only_the_clients_of_an_endpoint_that_went_move_and_they_come_back_with_it(
    mesh: Mesh, unready: Path, homes: dict[str, set[str]]
) -> None:
    (gone,) = homes[CLIENT]
    other = next(client for client in CLIENTS if homes[client] != {gone})
    (unready / gone).touch()
    eventually(lambda: gone not in stuck(mesh, CLIENT, 10))
    assert len(stuck(mesh, CLIENT, 10)) == 1
    assert stuck(mesh, other, 10) == homes[other]
    (unready / gone).unlink()
    eventually(lambda: stuck(mesh, CLIENT, 10) == {gone})
    assert stuck(mesh, other, 10) == homes[other]


def test_a_session_outlives_every_change_of_its_services_affinity(mesh: Mesh) -> None:
    with Session(mesh, CLIENT, "sticky") as session:
        for affinity, homes in (("None", 3), ("ClientIP", 1)):
            mesh.write("sticky.yaml", sticky(affinity))
            asked_until(session, lambda homes=homes: len(stuck(mesh, CLIENT, 60)) == homes)  # type: ignore[misc]  # bound at once
        assert session.end() == 0


def stuck(mesh: Mesh, client: str, count: int) -> set[str]:
    """Who answers a client's connections to the service ``sticky``."""
    return set(play(mesh, client, "names", "sticky", apps.LINES, count)["names"])


def sticky(affinity: str) -> str:
    """Another service of the pods of ``pool``."""
    return textwrap.dedent(f"""\
        apiVersion: v1
        kind: Service
        metadata: {{name: sticky, namespace: shop}}
        spec:
          selector: {{app: pool}}
          sessionAffinity: {affinity}
          ports: [{{port: {apps.LINES}}}]
        """)


def pool(replicas: int, unready: Path) -> str:
    """A service of several replicas, whose names are ``pool-0`` and so on."""
    return apps.server("pool", namespace="shop", replicas=replicas, ready_unless=str(unready))


def in_mode(mesh: Mesh, mode: str) -> bool:
    """Whether the server's mode is in force."""
    status = mesh.status()
    return status["ready"] and all(pod["mode"] == mode for pod in status["pods"])


def answering(mesh: Mesh) -> set[str]:
    """Who answers at the service ``pool``; 60 connections miss none of three replicas."""
    return set(play(mesh, CLIENT, "names", "pool", apps.LINES, 60)["names"])


def session_with(mesh: Mesh, name: str) -> Session:
    """A session that the service ``pool`` gave to the replica called ``name``."""
    for _ in range(60):
        session = Session(mesh, CLIENT, "pool")
        if session.ask("who") == {name}:
            return session
        session.end()
    raise AssertionError(f"the service never chose {name}")


def asked_until(session: Session, condition: Callable[[], bool]) -> None:
    """Keep asking until ``condition`` holds."""

    def ask() -> bool:
        session.ask(*map(str, range(20)))
        return condition()

    eventually(ask)
