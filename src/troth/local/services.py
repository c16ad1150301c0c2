"""Virtual IPs of Services: nftables rules in the network namespace of each client pod.

As kube-proxy does it, but in the pod and not on the node: the caller's address is kept, and a pod
that reaches itself through a Service needs no special case. TCP of a captured pod is Envoy's to
balance: capture comes first, and the rules here are for what it leaves. So there is no moment at
which a pod that joins or leaves the mesh has neither.
"""

from __future__ import annotations

import hashlib
from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from troth.agent.capture import apply_ruleset
from troth.mesh.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from troth.mesh.model import Endpoint, Service, ServicePort

TABLE = "troth_services"

_PRIORITY = -90
"""Behind the redirect of captured pods: what one NAT chain has decided, no later one is asked."""


def service_rules(services: Iterable[Service], *, client: str) -> str:
    """The whole table as one nftables transaction.

    A connection to a virtual IP goes to one of the port's endpoints of the same IP family, chosen
    at random, or always the same one if the Service wants it so. A new connection that is left for
    a virtual IP after that, because there is no endpoint or no such port, is rejected: a TCP reset,
    or an ICMP port-unreachable. One that is open keeps its endpoint for as long as that lives.

    Args:
        services: All Services of the mesh.
        client: What tells the pod from others, for Services that keep clients together.
    """
    balanced: list[str] = []
    virtual: list[str] = []
    for service in sorted(services, key=str):
        virtual += service.cluster_ips
        for address in service.cluster_ips:
            balanced += (
                rule
                for port in service.ports
                if port.protocol in {Protocol.TCP, Protocol.UDP}
                for rule in _balance(
                    address,
                    _usual(client, port) if service.client_ip_affinity else port,
                    f"{service}:{port.name or port.number}",
                )
            )
    # Open connections are translated only while some rule asks for connection tracking; without an
    # endpoint anywhere the balancing rules don't, so the refusing chain always does.
    rejected = [rule for address in virtual for rule in _reject(address)]
    return f"""\
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain balance {{
    type nat hook output priority {_PRIORITY}; policy accept;
{_indented(balanced)}  }}
  chain refuse {{
    type filter hook output priority 0; policy accept;
    ct state established,related accept
{_indented(rejected)}  }}
}}
"""


async def apply_services(netns: Path, services: Iterable[Service], *, client: str) -> None:
    """Brings the rules of the pod whose namespace is at ``netns`` up to date, all at once.

    Connections that are open keep the endpoint they have. Arguments as of `service_rules`.

    Raises:
        EnvironmentLackError: nft is not installed.
        PeerError: The kernel refused the rules.
    """
    await apply_ruleset(netns, service_rules(services, client=client))


def _usual(client: str, port: ServicePort) -> ServicePort:
    """The port with the endpoints that one client keeps to, one of each family.

    By rendezvous hashing: whatever other endpoints come, go or stay, nobody but their own clients
    moves.
    """
    chosen: dict[str, tuple[bytes, Endpoint]] = {}
    for endpoint in port.endpoints:
        weight = hashlib.sha256(f"{client} {_place(endpoint)}".encode()).digest(), endpoint
        family = _family(endpoint.address)
        chosen[family] = max(weight, chosen.get(family, weight))
    usual = tuple(endpoint for _, endpoint in chosen.values())
    return msgspec.structs.replace(port, endpoints=usual)


def _balance(address: str, port: ServicePort, comment: str) -> Iterator[str]:
    family = _family(address)
    endpoints = [e for e in sorted(port.endpoints) if _family(e.address) == family]
    if not endpoints:
        return
    match = f"{family} daddr {address} {port.protocol.lower()} dport {port.number}"
    choices = ", ".join(f"{index} : {_place(e)}" for index, e in enumerate(endpoints))
    yield (
        f"{match} dnat {family} to numgen random mod {len(endpoints)} "
        f'map {{ {choices} }} comment "{comment}"'
    )


def _place(endpoint: Endpoint) -> str:
    return f"{endpoint.address} . {endpoint.port}"


def _reject(address: str) -> Iterator[str]:
    match = f"{_family(address)} daddr {address}"
    yield f"{match} meta l4proto tcp reject with tcp reset"
    yield f"{match} reject with icmpx type port-unreachable"


def _family(address: str) -> str:
    return "ip" if ip_address(address).version == 4 else "ip6"  # noqa: PLR2004 - IPv4


def _indented(lines: Iterable[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
