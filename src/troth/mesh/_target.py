"""What ``NAMESPACE/NAME:PORT`` means to a pod that wants to connect there."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from troth.errors import PeerError
from troth.mesh._model import Endpoint, Pod, Protocol, Service

if TYPE_CHECKING:
    from troth.mesh._world import World


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a client connects to, and where that leads.

    Attributes:
        address: The IP that the client dials; a service's virtual IP where there is a service.
        port: The port that it dials.
        endpoints: The places one of which it is connected to; for a service its ready endpoints.
    """

    address: str
    port: int
    endpoints: tuple[Endpoint, ...]


def find_target(world: World, name: str, port: int) -> Target:
    """Find what a client would connect to.

    Args:
        world: Everything that is known.
        name: ``NAMESPACE/NAME`` of a Service that has the port, else of a pod, else of a
            Deployment, any one of whose pods is taken (a ready one first); or an IP address.
        port: The service's port, or where there is no service the pod's.

    Raises:
        PeerError: There is nothing of that name, or nothing behind it.
    """
    if _is_address(name):
        return Target(address=name, port=port, endpoints=(Endpoint(name, port),))
    service = world.services.get(name)
    if service is not None and service.cluster_ips:
        for known in service.ports:
            if known.number == port and known.protocol is Protocol.TCP:
                return _of_service(service, port, known.endpoints)
    pod = _find_pod(world, name)
    if pod is None:
        raise _unknown(world, name, port)
    if not pod.addresses:
        raise PeerError("troth", f"{pod} has no address yet", "wait until it is ready")
    return Target(
        address=pod.addresses[0], port=port, endpoints=(Endpoint(pod.addresses[0], port),)
    )


def pod_at(world: World, address: str) -> Pod | None:
    """The pod that has ``address``."""
    return next((pod for pod in world.pods.values() if address in pod.addresses), None)


def _of_service(service: Service, port: int, endpoints: tuple[Endpoint, ...]) -> Target:
    address = service.cluster_ips[0]
    same_family = tuple(each for each in endpoints if (":" in each.address) == (":" in address))
    return Target(address=address, port=port, endpoints=same_family)


def _find_pod(world: World, name: str) -> Pod | None:
    pods = sorted(world.pods.values(), key=str)
    owned = [pod for pod in pods if str(pod) == name] or [
        pod for pod in pods if pod.workload == name
    ]
    return max(owned, key=lambda pod: pod.ready, default=None)


def _unknown(world: World, name: str, port: int) -> PeerError:
    known = sorted({*world.services, *(pod.workload for pod in world.pods.values())})
    return PeerError(
        "troth",
        f"nothing that listens on TCP port {port} is called {name!r}",
        f"name one of: {', '.join(known) or 'none'}",
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
