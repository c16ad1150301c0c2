"""Whose an address is that isn't a cluster IP."""

from __future__ import annotations

from typing import Any

import pytest

from troth.mesh.addresses import ExternalPort, external_ports
from troth.mesh.model import Endpoint, Protocol, Service, ServicePort

ADDRESS = "192.0.2.1"
PODS = [("10.244.0.5", "fd74::5")]


def service(name: str, *numbers: int, **fields: Any) -> Service:
    """A service with one endpoint behind each port, which names the service."""
    behind = (Endpoint(name, 1),)
    ports = tuple(ServicePort(number=each, external_endpoints=behind) for each in numbers or (80,))
    return Service(**{"namespace": "shop", "name": name, "ports": ports} | fields)


def owners(*services: Service, pods: Any = PODS) -> dict[tuple[str, int], str]:
    """The service behind each port."""
    return {
        (each.address, each.number): each.endpoints[0].address
        for each in external_ports(services, pods)
    }


def test_an_address_is_the_services_on_its_tcp_ports_alone() -> None:
    udp = ServicePort(number=53, protocol=Protocol.UDP)
    tcp = ServicePort(number=80, external_endpoints=(Endpoint("10.0.0.1", 8080),))
    web = service("web", external_ips=(ADDRESS,), ports=(udp, tcp), client_ip_affinity=True)
    assert external_ports([web], []) == (
        ExternalPort(
            address=ADDRESS,
            number=80,
            endpoints=(Endpoint("10.0.0.1", 8080),),
            client_ip_affinity=True,
        ),
    )


def test_services_may_share_an_address() -> None:
    one = service("one", 80, load_balancer_ips=(ADDRESS,))
    two = service("two", 443, load_balancer_ips=(ADDRESS,))
    assert owners(one, two) == {(ADDRESS, 80): "one", (ADDRESS, 443): "two"}


@pytest.mark.parametrize("field", ["load_balancer_ips", "external_ips"])
@pytest.mark.parametrize("address", PODS[0])
def test_the_address_of_a_captured_pod_is_nobody_elses(field: str, address: str) -> None:
    assert owners(service("thief", **{field: (address, ADDRESS)})) == {(ADDRESS, 80): "thief"}


@pytest.mark.parametrize("field", ["load_balancer_ips", "external_ips"])
def test_a_cluster_ip_is_nobody_elses(field: str) -> None:
    victim = service("victim", cluster_ips=("10.96.0.1",))
    assert owners(victim, service("thief", 80, 81, **{field: ("10.96.0.1",)})) == {}


def test_a_load_balancers_address_is_taken_by_no_external_ip() -> None:
    thief = service("a-thief", 80, 81, external_ips=(ADDRESS,))
    victim = service("victim", load_balancer_ips=(ADDRESS,))
    for services in ((thief, victim), (victim, thief)):
        assert owners(*services)[ADDRESS, 80] == "victim"


def test_of_equal_claims_the_first_by_name_wins_in_whatever_order_they_come() -> None:
    one, two = (service(name, external_ips=(ADDRESS,)) for name in ("one", "two"))
    assert owners(one, two) == owners(two, one) == {(ADDRESS, 80): "one"}
