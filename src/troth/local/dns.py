"""Answers to DNS questions about a mesh, message by message: pure."""

from __future__ import annotations

import contextlib
import random
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

from troth.manifests.services import CLUSTER_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.local.names import Names

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
