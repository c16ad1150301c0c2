"""The link between a mesh started by root and its host, so that pods reach the world outside.

A veth pair on a link-local network of its own. The pods' traffic leaves the mesh with the uplink's
address; one nftables table on the host translates it further. The pair goes with the mesh's
namespace; the table is the one thing on the host that has to be removed. Whether packets go beyond
the host is the host's decision (``net.ipv4.ip_forward``), which troth doesn't change.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyroute2 import IPRoute

HOST_ADDRESS = "169.254.77.1"
"""The host, as pods reach it."""

_MESH_ADDRESS = "169.254.77.2"
_PREFIX_LENGTH = 30
_MESH_INTERFACE = "uplink"
_HOST_INTERFACE = "troth-uplink"
_TABLE = "troth_uplink"


def add(pid: int) -> None:
    """Link the host to the network namespace of process ``pid``.

    Raises:
        EnvironmentLackError: The kernel refused.
    """
    from pyroute2 import IPRoute, NetNS  # noqa: PLC0415 - slow to import, and only root needs it

    with _explained():
        with IPRoute() as host:
            peer = {"ifname": _MESH_INTERFACE, "net_ns_pid": pid}
            host.link("add", ifname=_HOST_INTERFACE, kind="veth", peer=peer)
            _configure(host, _HOST_INTERFACE, HOST_ADDRESS)
        with NetNS(f"/proc/{pid}/ns/net") as mesh:
            _configure(mesh, _MESH_INTERFACE, _MESH_ADDRESS)
            mesh.route("add", dst="default", gateway=HOST_ADDRESS)
    _nft(_masquerade(f'ip saddr {_MESH_ADDRESS} oifname != "{_HOST_INTERFACE}"'))
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "--")
    _nft(_masquerade(f'oifname "{_MESH_INTERFACE}"'), *inside)


def remove() -> None:
    """Remove what `add` made, or what is left of it; nothing there is no error."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - as above

    with _explained(), IPRoute() as host:
        for index in host.link_lookup(ifname=_HOST_INTERFACE):
            host.link("del", index=index)
    _nft(f"add table inet {_TABLE}\ndelete table inet {_TABLE}\n")


def _configure(ip: IPRoute, interface: str, address: str) -> None:
    (index,) = ip.link_lookup(ifname=interface)
    ip.addr("add", index=index, address=address, prefixlen=_PREFIX_LENGTH)
    ip.link("set", index=index, state="up")


def _masquerade(what: str) -> str:
    return f"""\
table inet {_TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {what} masquerade
  }}
}}
"""


def _nft(ruleset: str, *enter: str) -> None:
    result = subprocess.run(
        [*enter, "nft", "-f", "-"], input=ruleset, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise EnvironmentLackError(f"nft: {result.stderr.strip()}", "is nftables in the kernel?")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from pyroute2 import NetlinkError  # noqa: PLC0415 - as above

    try:
        yield
    except NetlinkError as error:
        raise EnvironmentLackError(
            f"cannot link the mesh to the host: {error}", f"is {_HOST_INTERFACE} somebody else's?"
        ) from error
