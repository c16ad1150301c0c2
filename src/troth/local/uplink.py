"""The link between a mesh started by root and its host, so that pods reach the world outside.

A veth pair on a link-local network of its own. The pods' traffic leaves the mesh with the uplink's
address; one nftables table on the host translates it further. The pair goes with the mesh's
namespace; the table is the one thing on the host that has to be removed. Whether packets go beyond
the host is the host's decision (``net.ipv4.ip_forward``), which troth doesn't change.
"""

from __future__ import annotations

import contextlib
import errno
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from pyroute2 import IPRoute, NetlinkError

from troth.agent import netns
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESH_INTERFACE = "uplink"
_PREFIX_LENGTH = 30
_MOST = 64  # networks of four addresses in 169.254.77.0/24


class Uplink(msgspec.Struct, frozen=True):
    """One of the links that meshes of this host can have; the first is number 0."""

    number: int

    @property
    def host_address(self) -> str:
        """The host, as pods reach it: 169.254.77.1 for the first mesh."""
        return f"169.254.77.{4 * self.number + 1}"

    @property
    def mesh_address(self) -> str:
        """The mesh, as the host sees it."""
        return f"169.254.77.{4 * self.number + 2}"

    @property
    def interface(self) -> str:
        """The host's end."""
        return f"troth-uplink{self.number}"

    @property
    def table(self) -> str:
        """The nftables table on the host."""
        return f"troth_uplink{self.number}"


def link(pid: int) -> Uplink:
    """Link the host to the network namespace of process ``pid``; `configure` makes it work.

    Raises:
        EnvironmentLackError: The kernel refused.
    """
    with _explained(), IPRoute() as host:
        for number in range(_MOST):
            uplink = Uplink(number)
            peer = {"ifname": _MESH_INTERFACE, "net_ns_pid": pid}
            try:
                host.link("add", ifname=uplink.interface, kind="veth", peer=peer)
            except NetlinkError as error:
                if error.code != errno.EEXIST:  # another mesh's
                    raise
            else:
                return uplink
    raise EnvironmentLackError(f"{_MOST} meshes have uplinks already", "stop some: troth down")


def configure(uplink: Uplink, pid: int) -> None:
    """Give both ends addresses, and translate what leaves; raises as `link` does."""
    with _explained(), IPRoute() as host:
        _configure(host, uplink.interface, uplink.host_address)
    beyond = f'ip saddr {uplink.mesh_address} oifname != "{uplink.interface}"'
    _nft(_masquerade(uplink.table, beyond))
    netns.call_in(Path(f"/proc/{pid}/ns/net"), lambda: _configure_mesh(uplink))


def remove(uplink: Uplink) -> None:
    """Remove it, or what is left of it; nothing there is no error."""
    with _explained(), IPRoute() as host:
        for index in host.link_lookup(ifname=uplink.interface):
            _remove_link(host, index)
    _nft(f"add table inet {uplink.table}\ndelete table inet {uplink.table}\n")


def _remove_link(host: IPRoute, index: int) -> None:
    try:
        host.link("del", index=index)
    except NetlinkError as error:
        # The kernel removes it with the namespace of its other end, at a time of its own.
        if error.code != errno.ENODEV:
            raise


def _configure_mesh(uplink: Uplink) -> None:
    """Give the mesh's end what it needs; in the mesh's network namespace."""
    with _explained(), IPRoute() as mesh:
        _configure(mesh, _MESH_INTERFACE, uplink.mesh_address)
        mesh.route("add", dst="default", gateway=uplink.host_address)
    _nft(_masquerade(uplink.table, f'oifname "{_MESH_INTERFACE}"'))


def _configure(ip: IPRoute, interface: str, address: str) -> None:
    (index,) = ip.link_lookup(ifname=interface)
    ip.addr("add", index=index, address=address, prefixlen=_PREFIX_LENGTH)
    ip.link("set", index=index, state="up")


def _masquerade(table: str, what: str) -> str:
    return f"""\
table inet {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {what} masquerade
  }}
}}
"""


def _nft(ruleset: str) -> None:
    result = subprocess.run(
        ["nft", "-f", "-"],
        input=ruleset,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # a Ctrl-C is for us to hear
    )
    if result.returncode:
        raise EnvironmentLackError(f"nft: {result.stderr.strip()}", "is nftables in the kernel?")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise EnvironmentLackError(
            f"cannot link the mesh to the host: {error}",
            "see that the kernel has veth and nftables",
        ) from error
