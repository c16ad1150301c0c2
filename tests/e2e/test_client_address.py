"""The app sees who calls: its client's own address, whichever way the connection came."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import apply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.client import Client, Streams

pytestmark = pytest.mark.e2e

IPV4, IPV6 = 0, 1


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {
        "mesh.yaml": document(
            [
                namespace("finance", mesh=True),
                namespace("legacy", mesh=False),
                *server("finance/web", "http:8080"),
                *server("finance/payments", "http:8080", "echo:7000"),
                *server("legacy/cron", "http:8080"),
                service("finance/payments", 8080, 7000),
                service("finance/web", 8080),
            ]
        )
    }


def virtual_ip(mesh: Mesh, pod: str, family: int) -> str:
    """The address of family `family` by which a pod knows ``payments.finance``."""
    listing = mesh.exec(pod, "getent", f"ahostsv{(4, 6)[family]}", "payments.finance", check=True)
    return listing.stdout.split()[0]


def all_answered(streams: Streams) -> bool:
    return min(streams.rounds) > 3


def by_pod_ip(mesh: Mesh, _: str, family: int) -> str:
    address: str = mesh.pod("finance/payments")["addresses"][family]
    return address


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("target", [by_pod_ip, virtual_ip], ids=["to the pod", "to its service"])
@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT", "DISABLE"])
def test_an_app_sees_the_address_of_a_client_in_the_mesh(
    mode: str, target: Callable[[Mesh, str, int], str], family: int, mesh: Mesh, web: Client
) -> None:
    apply(mesh, policy("finance/all", mode), modes={"finance/payments": f"{mode} by finance/all"})
    reply = web.get(target(mesh, "finance/web", family), 8080, "/who")
    assert reply.body is not None, reply
    assert reply.body.removeprefix("::ffff:") == mesh.pod("finance/web")["addresses"][family]


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("target", [by_pod_ip, virtual_ip], ids=["to the pod", "to its service"])
def test_an_app_sees_the_address_of_a_client_outside_the_mesh(
    target: Callable[[Mesh, str, int], str], family: int, mesh: Mesh, cron: Client
) -> None:
    apply(
        mesh,
        policy("finance/all", "PERMISSIVE"),
        modes={"finance/payments": "PERMISSIVE by finance/all"},
    )
    reply = cron.get(target(mesh, "legacy/cron", family), 8080, "/who")
    assert reply.body is not None, reply
    assert reply.body.removeprefix("::ffff:") == mesh.pod("legacy/cron")["addresses"][family]


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("target", [by_pod_ip, virtual_ip], ids=["to itself", "to its service"])
def test_an_app_that_calls_itself_sees_its_own_address(
    target: Callable[[Mesh, str, int], str], family: int, mesh: Mesh, payments: Client
) -> None:
    apply(
        mesh, policy("finance/all", "STRICT"), modes={"finance/payments": "STRICT by finance/all"}
    )
    reply = payments.get(target(mesh, "finance/payments", family), 8080, "/who")
    assert reply.body is not None, reply
    assert reply.body.removeprefix("::ffff:") == mesh.pod("finance/payments")["addresses"][family]


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])
def test_many_connections_of_one_client_at_once_lose_nothing(
    family: int, mesh: Mesh, web: Client, cron: Client
) -> None:
    """Behind Envoy each has a counterpart between the same addresses, to the same port."""
    apply(
        mesh,
        policy("finance/all", "PERMISSIVE"),
        modes={"finance/payments": "PERMISSIVE by finance/all"},
    )
    address = by_pod_ip(mesh, "", family)
    for client in (web, cron):
        streams = client.streams(address, 7000, 300)
        eventually(functools.partial(all_answered, streams), what="answers on every connection")
        assert streams.stop() == [""] * 300
