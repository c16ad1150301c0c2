"""Services that nothing serves: clients in the mesh are refused, as without a mesh."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import PYTHON, eventually
from tests.e2e.manifests import document, namespace, server, service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.client import Client
    from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

FILE = "services.yaml"


def services(selected: str) -> str:
    """The Service of ``payments`` with endpoints or, if another app is selected, without."""
    made: dict[str, Any] = service("finance/payments", 8080, 7000)
    made["spec"]["selector"] = {"app": selected}
    return document([made, service("finance/nobody", 8080)])


@pytest.fixture(scope="module")
def manifests() -> Mapping[str, str]:
    return {
        "mesh.yaml": document(
            [
                namespace("finance", mesh=True),
                namespace("legacy", mesh=False),
                *server("legacy/cron"),
                *server("finance/web"),
                *server("finance/payments", "http:8080", "echo:7000"),
            ]
        ),
        FILE: services("payments"),
    }


@pytest.fixture(params=["AF_INET", "AF_INET6"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def endpoints(mesh: Mesh) -> Iterator[None]:
    yield
    mesh.write(FILE, services("payments"))


def address(mesh: Mesh, name: str, family: str) -> str:
    """The cluster IP of a Service."""
    return mesh.exec("finance/web", PYTHON, "-c", _RESOLVE, name, family, check=True).stdout.strip()


_RESOLVE = """
import socket, sys
((*_, address), *_) = socket.getaddrinfo(sys.argv[1], 80, getattr(socket, sys.argv[2]))
print(address[0])
"""


def is_refused(web: Client, host: str, port: int) -> bool:
    return web.get(host, port).error.startswith("ConnectionRefusedError")


def test_a_service_without_endpoints_is_refused(mesh: Mesh, web: Client, family: str) -> None:
    assert is_refused(web, address(mesh, "nobody", family), 8080)


def test_a_port_that_the_service_does_not_have_is_refused(
    mesh: Mesh, web: Client, family: str
) -> None:
    virtual = address(mesh, "payments", family)
    assert is_refused(web, virtual, 81)
    assert web.get(virtual, 8080).body == "payments 8080 /"


def why(mesh: Mesh, about: str, **wanted: Any) -> dict[str, Any]:
    """Wait until `troth why` tells of a refusal with these properties."""

    def find() -> dict[str, Any] | None:
        report = json.loads(mesh.troth("why", about, "--count", "1000", "-o", "json").stdout)
        return next((r for r in report["refusals"] if wanted.items() <= r.items()), None)

    found = eventually(find, what=f"a refusal with {wanted}")
    assert found is not None
    return found


def test_why_names_the_service_without_endpoints(mesh: Mesh, web: Client, family: str) -> None:
    virtual = address(mesh, "nobody", family)
    assert is_refused(web, virtual, 8080)
    told = why(mesh, "finance/web", reason="no_endpoints", destination_address=virtual)
    assert (told["source"], told["destination"]) == ("finance/web", "finance/nobody")
    assert told["cause"] == "finance/nobody has no ready pod behind port 8080."
    assert told["source_address"] in mesh.pod("finance/web")["addresses"]
    assert why(mesh, "finance/nobody", reason="no_endpoints")["port"] == 8080


def test_why_names_the_port_that_the_service_does_not_have(mesh: Mesh, web: Client) -> None:
    assert is_refused(web, "payments", 82)
    told = why(mesh, "finance/web", reason="not_configured", port=82)
    assert told["destination"] == "finance/payments"
    assert "Check that it has such a port" in told["remedy"]


def test_why_names_the_client_outside_of_the_mesh_that_nobody_listens_to(
    mesh: Mesh, cron: Client
) -> None:
    for own in mesh.pod("finance/payments")["addresses"]:
        assert is_refused(cron, own, 8099)
    told = why(mesh, "legacy/cron", reason="app_unreachable", port=8099, count=2)
    assert (told["source"], told["destination"]) == ("legacy/cron", "finance/payments")
    assert told["cause"].startswith(
        "It reached the pod, but nothing took the connection at port 8099 of finance/payments at"
    )
    assert told["cause"].endswith(": nothing listens on port 8099.")


@pytest.mark.usefixtures("endpoints")
def test_an_open_connection_lives_on_while_the_endpoints_go_and_come_back(
    mesh: Mesh, web: Client, family: str
) -> None:
    virtual = address(mesh, "payments", family)
    eventually(lambda: web.get(virtual, 8080).body, what="the endpoints of the test before")
    streams = web.streams(virtual, 7000)
    for _ in range(2):
        mesh.write(FILE, services("nobody"))
        eventually(lambda: is_refused(web, virtual, 8080), what="the refusal")
        assert is_refused(web, virtual, 7000)
        mesh.write(FILE, services("payments"))
        eventually(lambda: web.get(virtual, 8080).body == "payments 8080 /", what="the answer")
    (before,) = streams.rounds
    eventually(lambda: streams.rounds[0] > before or any(streams.errors()), what="progress")
    assert streams.stop() == [""]
