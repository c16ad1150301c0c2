"""What ``NAMESPACE/NAME:PORT`` resolves to for a pod that connects there."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.errors import PeerError
from troth.mesh.model import Endpoint, Pod, Protocol, Service
from troth.syntax import choices

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from troth.mesh.world import World

_UNIQUE_LOCAL = ip_network("fc00::/7")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a client dials, and the endpoints behind it.

    Attributes:
        address: The IP that the client dials; for a service its virtual IP.
        port: The port that it dials.
        endpoints: It is connected to one of these; for a service its ready endpoints.
    """

    address: str
    port: int
    endpoints: tuple[Endpoint, ...]


def target_key(name: str, namespace: str) -> str:
    """``NAMESPACE/NAME`` for a DNS name of a Service; anything else unchanged.

    Args:
        name: ``payments``, ``payments.finance``, ``payments.finance.svc`` with or without the
            cluster's domain, as in a cluster's DNS; or ``NAMESPACE/NAME``; or an address.
        namespace: The client's.
    """
    if "/" in name or is_address(name):
        return name
    labels = name.removesuffix(".").lower().removesuffix(".cluster.local").split(".")
    match labels:
        case [own]:
            return f"{namespace}/{own}"
        case [own, other] | [own, other, "svc"]:
            return f"{other}/{own}"
        case _:
            return name


def preferred(addresses: Sequence[str], source: Pod | None) -> tuple[str, ...]:
    """The order in which a client tries addresses: RFC 6724 as in glibc's getaddrinfo().

    By its table a unique local address (ULA) comes before IPv4 if the client has a ULA, and after
    IPv4 if the client's IPv6 address is global. Families that the client lacks come last.

    Args:
        addresses: The destination's, in its own order.
        source: The client; without one that order stays.
    """
    if source is None or not source.addresses:
        return tuple(addresses)
    own = [ip_address(each) for each in source.addresses]

    def rank(text: str) -> tuple[bool, bool, int]:
        address = ip_address(text)
        same = [each for each in own if each.version == address.version]
        labels = {_is_local(each) for each in same}
        return not same, _is_local(address) not in labels, -address.version

    return tuple(sorted(addresses, key=rank))


def find_target(world: World, name: str, port: int, source: Pod | None = None) -> Target:
    """Find what a client would connect to.

    For a dual-stack Service it is the address that the client tries first, or the next one if
    there is no endpoint of that family.

    Args:
        world: Everything that is known.
        name: ``NAMESPACE/NAME`` of a Service that has the port, else of a pod, else of a
            Deployment (then one of its pods, preferably a ready one); or an IP address.
        port: The service's port, or without a service the pod's.
        source: The client.

    Raises:
        PeerError: There is nothing of that name, or nothing behind it.
    """
    if is_address(name):
        return Target(address=name, port=port, endpoints=(Endpoint(name, port),))
    service = world.services.get(name)
    if service is not None and service.cluster_ips:
        for known in service.ports:
            if known.number == port and known.protocol is Protocol.TCP:
                return _of_service(service, port, known.endpoints, source)
    pod = find_pod(world.pods.values(), name)
    if pod is None:
        raise _unknown(world, name, port)
    if not pod.addresses:
        raise PeerError("troth", f"{pod} has no address yet", "wait until it is ready")
    # A pod's name resolves to one of its addresses only.
    return Target(
        address=pod.addresses[0], port=port, endpoints=(Endpoint(pod.addresses[0], port),)
    )


def find_pod(pods: Iterable[Pod], name: str) -> Pod | None:
    """The pod called ``NAMESPACE/NAME``, or one of that workload, preferably a ready one."""
    found = [pod for pod in pods if str(pod) == name or pod.workload == name]
    running = (pod for pod in found if str(pod) == name or not pod.phase.is_final)
    return min(running, key=lambda pod: (str(pod) != name, not pod.ready, str(pod)), default=None)


def pod_at(world: World, address: str) -> Pod | None:
    """The pod that has ``address``."""
    return next((pod for pod in world.pods.values() if address in pod.addresses), None)


def _of_service(
    service: Service, port: int, endpoints: tuple[Endpoint, ...], source: Pod | None
) -> Target:
    targets = [
        Target(
            address=address,
            port=port,
            endpoints=tuple(
                each for each in endpoints if (":" in each.address) == (":" in address)
            ),
        )
        for address in preferred(service.cluster_ips, source)
    ]
    return next((each for each in targets if each.endpoints), targets[0])


def _unknown(world: World, name: str, port: int) -> PeerError:
    known = sorted({*world.services, *(pod.workload for pod in world.pods.values())})
    return PeerError(
        "troth",
        f"nothing that listens on TCP port {port} is called {name!r}",
        choices(name, known),
    )


def _is_local(address: IPv4Address | IPv6Address) -> bool:
    return address.version == 6 and address in _UNIQUE_LOCAL  # noqa: PLR2004 - the IP version


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
