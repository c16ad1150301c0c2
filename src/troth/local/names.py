"""What DNS says about a mesh, by the specification that clusters follow.

https://github.com/kubernetes/dns/blob/master/docs/specification.md, version 1.1.0. Beside what it
demands, a pod has a name made of its address (``10-244-0-2.NAMESPACE.pod.cluster.local``), and so
has every endpoint below its Service, as CoreDNS has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from troth.local.addresses import (
    POD_RANGE_V4,
    POD_RANGE_V6,
    SERVICE_RANGE_V4,
    SERVICE_RANGE_V6,
    AnyNetwork,
)
from troth.manifests.services import CLUSTER_DOMAIN

if TYPE_CHECKING:
    from troth.local.plan import Published, Resolution
    from troth.mesh.model import Pod, Service

_RANGES: tuple[AnyNetwork, ...] = (
    POD_RANGE_V4,
    POD_RANGE_V6,
    SERVICE_RANGE_V4,
    SERVICE_RANGE_V6,
)


class ServerPort(msgspec.Struct, frozen=True, order=True):
    """Where a Service's named port is (an SRV record)."""

    target: str
    port: int


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about names in the mesh; each in lower case, without a dot at its end.

    Attributes:
        addresses: Of Services, of their endpoints and of pods.
        aliases: The names that ExternalName Services stand for.
        ports: Of Services, by ``_PORT._PROTOCOL.SERVICE``, and all by the Service's own name.
        pointers: Names by the name that an address has in DNS.
        existing: All of these names and what they end with in the mesh: nothing else exists.
    """

    addresses: Mapping[str, tuple[str, ...]] = {}
    aliases: Mapping[str, str] = {}
    ports: Mapping[str, tuple[ServerPort, ...]] = {}
    pointers: Mapping[str, tuple[str, ...]] = {}
    existing: frozenset[str] = frozenset({CLUSTER_DOMAIN})

    def covers(self, name: str) -> bool:
        """Whether the mesh alone says what ``name`` is."""
        if name == CLUSTER_DOMAIN or name.endswith(f".{CLUSTER_DOMAIN}") or name in self.pointers:
            return True
        address = _reversed(name)
        return address is not None and any(ip_address(address) in each for each in _RANGES)


def names_of(resolution: Resolution, pods: Iterable[Pod]) -> Names:
    """All names of a mesh.

    Args:
        resolution: Its Services.
        pods: Its pods.
    """
    addresses: dict[str, list[str]] = {}
    ports: dict[str, set[ServerPort]] = {}
    pointers: dict[str, list[str]] = {}
    for key, service in resolution.services.items():
        base = _service_name(key)
        published = resolution.published.get(key, ())
        below = {each: f"{_label(each)}.{base}" for each in published}
        behind = [each.address for each in published]
        addresses[base] = list(service.cluster_ips) or list(dict.fromkeys(behind))
        for each, name in below.items():
            addresses.setdefault(name, []).append(each.address)
            if not service.cluster_ips:
                pointers.setdefault(ip_address(each.address).reverse_pointer, []).append(name)
        for address in service.cluster_ips:
            pointers.setdefault(ip_address(address).reverse_pointer, []).append(base)
        for name, port in _ports(service, base, below):
            ports.setdefault(name, set()).add(port)
    for pod in pods:
        for address in pod.addresses:
            addresses[f"{_dashed(address)}.{pod.namespace}.pod.{CLUSTER_DOMAIN}"] = [address]
    aliases = {_service_name(key): target for key, target in resolution.aliases.items()}
    return Names(
        addresses={name: tuple(found) for name, found in addresses.items()},
        aliases=aliases,
        ports={name: tuple(sorted(found)) for name, found in ports.items()},
        pointers={name: tuple(sorted(set(found))) for name, found in pointers.items()},
        existing=frozenset(
            {CLUSTER_DOMAIN, f"dns-version.{CLUSTER_DOMAIN}"}.union(
                *map(_with_parents, (*addresses, *aliases, *ports))
            )
        ),
    )


def _ports(
    service: Service, base: str, below: Mapping[Published, str]
) -> Iterable[tuple[str, ServerPort]]:
    by_address: dict[str, list[str]] = {}
    for published, name in below.items():
        by_address.setdefault(published.address, []).append(name)
    for port in service.ports:
        found = [ServerPort(base, port.number)]
        if not service.cluster_ips:
            found = [
                ServerPort(name, endpoint.port)
                for endpoint in port.endpoints
                for name in by_address.get(endpoint.address, ())
            ]
        for each in found:
            yield base, each
            if port.name:
                yield f"_{port.name}._{port.protocol.lower()}.{base}", each


def _service_name(key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}"


def _label(published: Published) -> str:
    return published.hostname or _dashed(published.address)


def _dashed(address: str) -> str:
    return address.replace(".", "-").replace(":", "-")


def _with_parents(name: str) -> set[str]:
    labels = name.split(".")
    return {".".join(labels[index:]) for index in range(len(labels) - 1)}


def _reversed(name: str) -> str | None:
    """The address whose name in DNS this is; None if it is nothing such."""
    if name.endswith(".in-addr.arpa"):
        labels = name.removesuffix(".in-addr.arpa").split(".")
        text = ".".join(reversed(labels))
    elif name.endswith(".ip6.arpa"):
        digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
        text = ":".join(digits[index : index + 4] for index in range(0, len(digits), 4))
    else:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        return None
