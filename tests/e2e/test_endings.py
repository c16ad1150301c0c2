"""Connections that come to nothing end as without a mesh: refused, or reset, and never empty."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import PYTHON
from tests.e2e.manifests import document, namespace, server, service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

CLOSED = 8081
"""A port of the service that its app doesn't listen on."""

LATE = {"AF_INET": 8082, "AF_INET6": 8083}
"""A port of each family that it listens on when somebody has come for it."""


@pytest.fixture(scope="module")
def manifests() -> Mapping[str, str]:
    return {
        "mesh.yaml": document(
            [
                namespace("finance", mesh=True),
                namespace("legacy", mesh=False),
                *server("finance/web"),
                *server("finance/payments", "http:8080"),
                *server("legacy/cron"),
                service("finance/payments", 8080, CLOSED, *LATE.values()),
            ]
        )
    }


FAMILIES = ["AF_INET", "AF_INET6"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("words", ["", "hello"], ids=["silent", "speaking"])
def test_a_client_in_the_mesh_is_reset_where_the_app_does_not_listen(
    family: str, words: str, mesh: Mesh
) -> None:
    assert end_of(mesh, "finance/web", "payments", family, words) == "ConnectionResetError"


def test_a_connection_that_was_reset_is_told_as_failed_and_never_as_accepted(mesh: Mesh) -> None:
    end_of(mesh, "finance/web", "payments", "AF_INET")
    mesh.event(source="finance/web", port=CLOSED, reason="app_unreachable")
    seen = [event for event in mesh.events() if event["destination"]["port"] == CLOSED]
    assert {event["outcome"] for event in seen} == {"failed"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_in_the_mesh_waits_a_moment_for_an_app_to_listen(family: str, mesh: Mesh) -> None:
    port = LATE[family]
    command = (PYTHON, "-c", _LATE_SERVER, str(port), family)
    with mesh.start("finance/payments", *command, stdout=subprocess.PIPE, text=True) as late:
        assert late.stdout is not None
        assert late.stdout.readline() == "bound\n"
        end = end_of(mesh, "finance/web", "payments", family, port=port)
        late.kill()
    assert end == "b'late'"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_outside_the_mesh_is_refused_where_the_app_does_not_listen(
    family: str, mesh: Mesh
) -> None:
    assert end_of(mesh, "legacy/cron", "payments.finance", family) == "ConnectionRefusedError"


def end_of(
    mesh: Mesh, pod: str, host: str, family: str, words: str = "", *, port: int = CLOSED
) -> str:
    """How a connection ends whose client says so much, and then listens."""
    result = mesh.exec(pod, PYTHON, "-c", _CLIENT, host, str(port), family, words)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


_CLIENT = """
import socket, sys
host, port, name, words = sys.argv[1:]
family = getattr(socket, name)
((*_, address), *_) = socket.getaddrinfo(host, int(port), family, socket.SOCK_STREAM)
with socket.socket(family) as client:
    client.settimeout(30)
    try:
        client.connect(address)
        client.sendall(words.encode())
        print(client.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""

# Listens when the kernel has a connection to its port that waits for an answer (TCP_SYN_SENT, 2).
_LATE_SERVER = """
import socket, sys, time
port, family = int(sys.argv[1]), getattr(socket, sys.argv[2])
table = "/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp"

def awaited():
    rows = [line.split() for line in open(table)]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)

with socket.socket(family) as server:
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("", port))
    print("bound", flush=True)
    deadline = time.monotonic() + 60
    while not awaited() and time.monotonic() < deadline:
        time.sleep(0.005)
    server.listen()
    server.settimeout(60)
    server.accept()[0].sendall(b"late")
"""
