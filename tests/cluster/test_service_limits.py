"""What one Service can bring about on every node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.cluster.objects import MOST_PAIRS, MOST_PORTS, read_service

if TYPE_CHECKING:
    from troth.cluster.world import ClusterService
    from troth.kube.resource import Item


def read(
    *, ports: int, external: int = 0, balancer: int = 0, backwards: bool = False
) -> tuple[ClusterService, Item[ClusterService]]:
    """A Service with so many TCP ports and addresses, in this order or that."""

    def ordered(values: list[object]) -> list[object]:
        return values[::-1] if backwards else values

    item = read_service(
        msgspec.Raw(
            json.dumps(
                {
                    "metadata": {"name": "web", "namespace": "shop"},
                    "spec": {
                        "clusterIP": "10.96.0.1",
                        "externalIPs": ordered([f"192.0.2.{n}" for n in range(external)]),
                        "ports": [
                            *ordered([{"port": n} for n in range(1, ports + 1)]),
                            {"port": 60000, "protocol": "UDP"},
                        ],
                    },
                    "status": {
                        "loadBalancer": {
                            "ingress": ordered([{"ip": f"198.51.100.{n}"} for n in range(balancer)])
                        }
                    },
                }
            ).encode()
        )
    )
    assert item.value is not None
    return item.value, item


def pairs(service: ClusterService) -> int:
    tcp = [port for port in service.ports if port.protocol == "TCP"]
    return len(tcp) * len({*service.external_ips, *service.load_balancer_ips})


def test_a_service_with_many_addresses_and_ports_does_not_multiply_them() -> None:
    service, item = read(ports=100, external=200)
    assert pairs(service) == 200
    (problem,) = item.problems
    assert str(problem) == (
        "Service shop/web: spec.externalIPs: has 200 addresses, of which 2 are reached by mutual"
        " TLS and the others as they are, through kube-proxy; let addresses times TCP ports be no"
        " more than 256, those of load balancers counted first, or divide them among several"
        " Services"
    )
    assert not item.is_refused


def test_a_service_with_too_many_ports_keeps_the_lowest() -> None:
    service, item = read(ports=MOST_PORTS + 1)
    assert {port.number for port in service.ports} == {*range(1, MOST_PORTS + 1), 60000}
    assert [problem.path for problem in item.problems] == ["spec.ports"]
    assert not item.is_refused


def test_addresses_of_a_load_balancer_come_first() -> None:
    service, item = read(ports=100, balancer=1, external=3)
    assert service.load_balancer_ips == ("198.51.100.0",)
    assert service.external_ips == ("192.0.2.0",)
    service, item = read(ports=100, balancer=3, external=1)
    assert len(service.load_balancer_ips) == 2
    assert service.external_ips == ()
    assert [each.path for each in item.problems] == [
        "status.loadBalancer.ingress",
        "spec.externalIPs",
    ]


@pytest.mark.parametrize(
    ("ports", "external"), [(1, MOST_PAIRS - 1), (MOST_PAIRS, 1), (16, 16), (MOST_PORTS, 0)]
)
def test_what_is_within_the_limits_is_taken_as_it_is(*, ports: int, external: int) -> None:
    service, item = read(ports=ports, external=external)
    assert item.problems == ()
    assert pairs(service) == ports * external


def test_what_is_left_out_does_not_depend_on_the_order() -> None:
    first, _ = read(ports=MOST_PORTS + 9)
    again, _ = read(ports=MOST_PORTS + 9, backwards=True)
    assert set(first.ports) == set(again.ports)
    first, _ = read(ports=100, external=50, balancer=1)
    again, _ = read(ports=100, external=50, balancer=1, backwards=True)
    assert first.external_ips == again.external_ips
