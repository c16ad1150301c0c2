"""Ethernet frames as somebody makes them who isn't bound by his own addresses."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from troth.agent.netns import call_in

if TYPE_CHECKING:
    from pathlib import Path


def frames() -> socket.socket:
    """A socket for whole frames of ``eth0``."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind(("eth0", 0x0800))
    return wire


def mac(netns: Path) -> bytes:
    """The address of a namespace's ``eth0``."""

    def look() -> bytes:
        with frames() as wire:
            address: bytes = wire.getsockname()[4]
        return address

    return call_in(netns, look)


def packed(address: str) -> bytes:
    """An IPv4 address as it is in a packet."""
    return socket.inet_aton(address)


def syn(source: str, destination: str, port: int) -> bytes:
    """An IPv4 packet with the first segment of a connection."""
    ends = packed(source) + packed(destination)
    segment = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 0x02, 65535, 0, 0)
    pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
    segment = segment[:16] + _checksum(pseudo + segment) + segment[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, socket.IPPROTO_TCP, 0) + ends
    return header[:10] + _checksum(header) + header[12:] + segment


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2)
