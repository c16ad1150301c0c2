"""What DNS says about a mesh, by the specification that clusters follow: pure.

https://github.com/kubernetes/dns/blob/master/docs/specification.md, version 1.1.0. Beside what it
demands, a pod has a name made of its address (``10-244-0-2.NAMESPACE.pod.cluster.local``), and so
has every endpoint below its Service, as CoreDNS has it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
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

HEADER_BYTES = 12
LONGEST_QUERY = 1232
"""Bytes; a question takes no more than 300."""

_SMALLEST_REPLY = 512
_LARGEST_DATAGRAM = 1232  # fits every link's packets (DNS flag day 2020)
_RESPONSE_BIT = 0x80
_SECONDS = 5  # how long an answer may be kept, as CoreDNS has it
_MOST_ALIASES = 16
_AUTHORITY = dns.rrset.from_text(
    f"{CLUSTER_DOMAIN}.",
    _SECONDS,
    dns.rdataclass.IN,
    dns.rdatatype.SOA,
    f"ns.dns.{CLUSTER_DOMAIN}. hostmaster.{CLUSTER_DOMAIN}. 1 7200 1800 86400 {_SECONDS}",
)
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


class Reply(msgspec.Struct, frozen=True):
    """What the mesh says to a question.

    Attributes:
        message: The answer, whole unless there is more to ask.
        outside: The name that others have to be asked about to complete it.
    """

    message: dns.message.Message
    outside: dns.name.Name | None = None


def parse(wire: bytes) -> dns.message.QueryMessage | bytes | None:
    """A question; or the answer of somebody who doesn't understand it; or None for no answer."""
    if len(wire) < HEADER_BYTES or wire[2] & _RESPONSE_BIT:
        return None  # to answer an answer could go on for ever
    if (wire[2] >> 3) & 0xF != dns.opcode.QUERY:
        return _refusal(wire, dns.rcode.NOTIMP)
    query: dns.message.Message | None = None
    if len(wire) <= LONGEST_QUERY:
        with contextlib.suppress(dns.exception.DNSException, ValueError):
            query = dns.message.from_wire(wire)
    if not isinstance(query, dns.message.QueryMessage) or len(query.question) != 1:
        return _refusal(wire, dns.rcode.FORMERR)
    if query.question[0].rdclass != dns.rdataclass.IN:
        return _refusal(wire, dns.rcode.REFUSED)
    return query


def respond(query: dns.message.QueryMessage, names: Names) -> Reply:
    """What the mesh says to a question.

    Args:
        query: As of `parse`.
        names: What is known.
    """
    message = dns.message.make_response(
        query, recursion_available=True, our_payload=_LARGEST_DATAGRAM
    )
    owner, kind = query.question[0].name, query.question[0].rdtype
    text = plain(owner)
    if not names.covers(text):
        return Reply(message, owner)
    message.flags |= dns.flags.AA
    for _ in range(_MOST_ALIASES):
        target = names.aliases.get(text)
        if target is None:
            break
        _add(message, owner, dns.rdatatype.CNAME, [f"{target}."])
        if kind == dns.rdatatype.CNAME:
            return Reply(message)
        owner, text = dns.name.from_text(f"{target}."), target
        if not names.covers(text):
            return Reply(message, owner)
    found = _records(names, text, kind)
    if found:
        _add(message, owner, kind, found)
        if kind == dns.rdatatype.SRV:
            _add_addresses(message, names, text)
        return Reply(message)
    if text not in names.existing and text not in names.pointers:
        message.set_rcode(dns.rcode.NXDOMAIN)
    message.authority.append(_AUTHORITY)
    return Reply(message)


def encoded(query: dns.message.QueryMessage, message: dns.message.Message, *, tcp: bool) -> bytes:
    """A reply as bytes; cut short, and marked so, if it is too long for a datagram."""
    if tcp:
        return message.to_wire(max_size=0xFFFF, prefer_truncation=True)
    offered = query.payload if query.edns >= 0 else _SMALLEST_REPLY
    largest = max(_SMALLEST_REPLY, min(offered, _LARGEST_DATAGRAM))
    return message.to_wire(max_size=largest, prefer_truncation=True)


def plain(name: dns.name.Name) -> str:
    """A name in lower case, without the dot at its end."""
    return name.to_text(omit_final_dot=True).lower()


def _records(names: Names, name: str, kind: dns.rdatatype.RdataType) -> list[str]:
    if kind in {dns.rdatatype.A, dns.rdatatype.AAAA}:
        wanted = [
            each
            for each in names.addresses.get(name, ())
            if (":" in each) == (kind == dns.rdatatype.AAAA)
        ]
        return random.sample(wanted, len(wanted))  # who takes the first one isn't always the same
    if kind == dns.rdatatype.SRV:
        return [f"0 100 {each.port} {each.target}." for each in names.ports.get(name, ())]
    if kind == dns.rdatatype.PTR:
        return [f"{each}." for each in names.pointers.get(name, ())]
    if kind == dns.rdatatype.TXT and name == f"dns-version.{CLUSTER_DOMAIN}":
        return ['"1.1.0"']
    return []


def _add(
    message: dns.message.Message,
    owner: dns.name.Name,
    kind: dns.rdatatype.RdataType,
    texts: Iterable[str],
) -> None:
    message.answer.append(
        dns.rrset.from_text_list(owner, _SECONDS, dns.rdataclass.IN, kind, list(texts))
    )


def _add_addresses(message: dns.message.Message, names: Names, name: str) -> None:
    """The addresses that the SRV records of a reply lead to."""
    for target in dict.fromkeys(each.target for each in names.ports[name]):
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            if found := _records(names, target, kind):
                message.additional.append(
                    dns.rrset.from_text_list(f"{target}.", _SECONDS, dns.rdataclass.IN, kind, found)
                )


def _refusal(wire: bytes, code: dns.rcode.Rcode) -> bytes:
    """A bare header that answers a message that can't be read."""
    first = _RESPONSE_BIT | (wire[2] & 0x79)  # its opcode, and whether recursion was wanted
    return bytes((*wire[:2], first, code & 0xF, *bytes(8)))
