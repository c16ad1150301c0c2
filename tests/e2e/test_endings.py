"""Connections that come to nothing end as without a mesh: refused, or reset, and never empty."""

from __future__ import annotations

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
                service("finance/payments", 8080, CLOSED),
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
def test_a_client_outside_the_mesh_is_refused_where_the_app_does_not_listen(
    family: str, mesh: Mesh
) -> None:
    assert end_of(mesh, "legacy/cron", "payments.finance", family) == "ConnectionRefusedError"


def end_of(mesh: Mesh, pod: str, host: str, family: str, words: str = "") -> str:
    """How a connection to `CLOSED` ends whose client says so much, and then listens."""
    result = mesh.exec(pod, PYTHON, "-c", _CLIENT, host, str(CLOSED), family, words)
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
