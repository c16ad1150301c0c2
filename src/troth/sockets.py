"""Settings for sockets: where to listen, and TCP keepalive."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import NoReturn

import msgspec

from troth.errors import InputError, Problem

LISTEN = "PORT|ADDRESS:PORT|unix:PATH"
"""The syntax of `ListenAddress.parse`, for a command's help."""

_WANTED = "write PORT, ADDRESS:PORT, [ADDRESS]:PORT or unix:PATH"

_LONGEST_SOCKET_PATH = 107  # bytes; sun_path of unix(7), less its final zero
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_HIGHEST_PORT = 65535


class ListenAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen: an IP address (all of them if empty) and a TCP port, or a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str, *, option: str) -> ListenAddress:
        """Read ``PORT``, ``ADDRESS:PORT``, ``[ADDRESS]:PORT`` or ``unix:PATH``.

        A path is made absolute.

        Args:
            text: The option's value.
            option: The option's name, for errors.

        Raises:
            InputError: It has none of these forms.
        """
        scheme, _, rest = text.partition(":")
        if scheme == "unix":
            path = str(Path(rest).absolute()) if rest else ""
            length = len(os.fsencode(path))
            if not rest or "\0" in rest:
                _refuse(option, text, "names no path")
            if length > _LONGEST_SOCKET_PATH:
                found = f"names a path of {length} bytes, too long for a Unix socket"
                _refuse(option, text, found)
            return cls(path=path)
        if _PORT.fullmatch(text) and int(text) <= _HIGHEST_PORT:
            return cls(port=int(text))
        host, colon, number = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            _refuse(option, text, "has no IP address" if colon else "has no port")
        if (address.version == 6) is not (bare != host):  # noqa: PLR2004 - IPv6
            _refuse(option, text, "writes an IPv6 address without brackets, or another one in them")
        if not _PORT.fullmatch(number) or int(number) > _HIGHEST_PORT:
            _refuse(option, text, f"has {number!r} for a port")
        return cls(host=str(address), port=int(number))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if not self.host:
            return str(self.port)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _refuse(option: str, text: str, found: str) -> NoReturn:
    problem = Problem(subject=f"{option} {text}", path="", found=found, wanted=_WANTED)
    raise InputError([problem])


KEEPALIVE_SECONDS = 120
"""The default; Linux' own is two hours and eleven minutes."""

SHORTEST_KEEPALIVE_SECONDS, LONGEST_KEEPALIVE_SECONDS = 4, 7200
_LONGEST_PAUSE = 60


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """TCP keepalive: when the kernel probes the other end, and when it drops the connection.

    Probes also keep the kernel's entry for the redirection of an idle or half-closed connection
    from expiring (`troth.agent.sysctls`), so they are at most a minute apart.

    Attributes:
        idle: Seconds without data before the first probe.
        interval: Seconds between probes.
        count: Unanswered probes before the connection is dropped.
    """

    idle: int
    interval: int
    count: int

    @classmethod
    def of(cls, seconds: int) -> Keepalive:
        """Settings that detect a vanished end within about ``seconds``, 4 to 7200."""
        idle = min(_LONGEST_PAUSE, seconds // 2)
        interval = min(_LONGEST_PAUSE, max(1, (seconds - idle) // 4))
        return cls(idle=idle, interval=interval, count=(seconds - idle) // interval)
