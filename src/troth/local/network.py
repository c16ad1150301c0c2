"""The network between local pods: one bridge in the node's namespace, a veth pair per pod."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import AsyncIPRoute, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from troth.agent.netns import call_in, inode
from troth.agent.sysctls import set_sysctl
from troth.errors import EnvironmentLackError
from troth.local.addresses import POD_RANGE_V4, POD_RANGE_V6, AddressPool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Network, IPv6Network

BRIDGE = "troth0"

_SYSCTL = Path("/proc/sys/net")
_LOOPBACK_INDEX = 1
_IFA_F_NODAD = 2


class Network:
    """Links pods with each other and with the node's own namespace.

    Everything is made in the network namespace of the calling process, which must be the mesh's
    own: the bridge, its addresses, IP forwarding and one end of each pod's veth pair.

    Args:
        v4: The pods' IPv4 range; its first address is the gateway's.
        v6: The pods' IPv6 range; unused where the kernel has no IPv6.
    """

    def __init__(self, *, v4: IPv4Network = POD_RANGE_V4, v6: IPv6Network = POD_RANGE_V6) -> None:
        pools = [AddressPool(v4)]
        if (_SYSCTL / "ipv6").exists():
            pools.append(AddressPool(v6))
        self._pools = tuple(pools)
        self._pods: dict[str, tuple[str, ...]] = {}
        self._netlink = AsyncIPRoute()
        self._bridge_index = 0

    @property
    def gateways(self) -> tuple[str, ...]:
        """The node's addresses on the bridge, IPv4 first (``status.hostIPs`` of the pods)."""
        return tuple(pool.gateway for pool in self._pools)

    @property
    def families(self) -> tuple[str, ...]:
        """The IP families of the pods' addresses, ``IPv4`` first."""
        return tuple(f"IPv{pool.network.version}" for pool in self._pools)

    async def start(self) -> None:
        """Makes the bridge and lets the node forward what pods send elsewhere.

        Raises:
            EnvironmentLackError: No permission, or there is an interface of that name already.
        """
        with _explained(f"make the bridge {BRIDGE}"):
            # With a fixed hardware address the gateway's stays the same when ports come and go.
            await self._netlink.link(
                "add",
                ifname=BRIDGE,
                kind="bridge",
                address=_hardware_address(self._pools[0].gateway),
            )
            (self._bridge_index,) = await self._netlink.link_lookup(ifname=BRIDGE)
            set_sysctl("ipv6/conf/troth0/accept_dad", "0")
            for pool in self._pools:
                await self._netlink.addr(
                    "add",
                    index=self._bridge_index,
                    address=pool.gateway,
                    prefixlen=pool.network.prefixlen,
                    flags=_address_flags(pool),
                )
            await self._netlink.link("set", index=self._bridge_index, state="up")
            await self._netlink.link("set", index=_LOOPBACK_INDEX, state="up")
            set_sysctl("ipv4/ip_forward", "1")
            set_sysctl("ipv6/conf/all/forwarding", "1")

    async def add_pod(self, uid: str, netns: Path) -> tuple[str, ...]:
        """Gives the pod whose namespace is at ``netns`` an ``eth0`` and gives its addresses.

        The addresses, IPv4 first, are usable when this returns. A pod that was added already
        keeps its own.

        Raises:
            EnvironmentLackError: No permission, or no address is left.
            PeerError: There is no network namespace at ``netns``.
        """
        if uid in self._pods:
            return self._pods[uid]
        addresses = self._allocate()
        self._pods[uid] = addresses
        try:
            with _explained(f"link pod {uid}"):
                await self._add_veth(uid, netns, _hardware_address(addresses[0]))
                await asyncio.to_thread(call_in, netns, lambda: self._configure_pod(addresses))
        except BaseException:
            await self.remove_pod(uid)
            raise
        return addresses

    async def remove_pod(self, uid: str) -> None:
        """Takes the pod's link away and frees its addresses; no-op for an unknown pod."""
        addresses = self._pods.pop(uid, None)
        if addresses is None:
            return
        for pool, address in zip(self._pools, addresses, strict=True):
            pool.release(address)
        with _explained(f"unlink pod {uid}"):
            # The kernel has removed it by itself when the namespace ended.
            for index in await self._netlink.link_lookup(ifname=interface_name(uid)):
                with contextlib.suppress(NetlinkError):
                    await self._netlink.link("del", index=index)

    async def stop(self) -> None:
        """Takes away all that was made, except for IP forwarding."""
        for uid in tuple(self._pods):
            await self.remove_pod(uid)
        if self._bridge_index:
            with _explained(f"remove the bridge {BRIDGE}"):
                await self._netlink.link("del", index=self._bridge_index)
            self._bridge_index = 0
        self._netlink.close()

    def _allocate(self) -> tuple[str, ...]:
        addresses: list[str] = []
        try:
            addresses.extend(pool.allocate() for pool in self._pools)
        except EnvironmentLackError:
            for pool, address in zip(self._pools, addresses, strict=False):
                pool.release(address)
            raise
        return tuple(addresses)

    async def _add_veth(self, uid: str, netns: Path, hardware_address: str) -> None:
        inode(netns)  # says so when it is no network namespace
        with netns.open("rb") as namespace:
            await self._netlink.link(
                "add",
                ifname=interface_name(uid),
                kind="veth",
                state="up",
                master=self._bridge_index,
                peer={
                    "ifname": "eth0",
                    "address": hardware_address,
                    "net_ns_fd": namespace.fileno(),
                },
            )

    def _configure_pod(self, addresses: tuple[str, ...]) -> None:
        """Runs inside the pod's namespace."""
        # Ours alone assign addresses here; duplicate address detection would hold IPv6 for 1 s.
        set_sysctl("ipv6/conf/eth0/accept_dad", "0")
        set_sysctl("ipv6/conf/eth0/accept_ra", "0")
        # Many short connections to one place run out of ports in TIME_WAIT otherwise.
        set_sysctl("ipv4/tcp_tw_reuse", "1")
        # Lets ping work without CAP_NET_RAW; group 0 is all there is for a mapped user.
        if not set_sysctl("ipv4/ping_group_range", "0 2147483647"):
            set_sysctl("ipv4/ping_group_range", "0 0")
        with IPRoute() as netlink:
            (eth0,) = netlink.link_lookup(ifname="eth0")
            for pool, address in zip(self._pools, addresses, strict=True):
                netlink.addr(
                    "add",
                    index=eth0,
                    address=address,
                    prefixlen=pool.network.prefixlen,
                    flags=_address_flags(pool),
                )
            netlink.link("set", index=eth0, state="up")
            for pool in self._pools:
                netlink.route("add", dst="default", gateway=pool.gateway, family=_family(pool))


def interface_name(uid: str) -> str:
    """The node's end of a pod's veth pair: 15 characters, the kernel's most."""
    return "veth" + hashlib.sha256(uid.encode()).hexdigest()[:11]


def _family(pool: AddressPool) -> socket.AddressFamily:
    return socket.AF_INET if pool.network.version == 4 else socket.AF_INET6  # noqa: PLR2004 IPv4


def _address_flags(pool: AddressPool) -> int:
    return _IFA_F_NODAD if _family(pool) is socket.AF_INET6 else 0


def _hardware_address(ipv4: str) -> str:
    """A locally administered address made from the IP, so that a reused IP has no stale ARP."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in socket.inet_aton(ipv4))


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """The one place where netlink's and sysctl's errors become ours."""
    try:
        yield
    except NetlinkError as error:
        raise EnvironmentLackError(
            f"cannot {doing}: {os.strerror(error.code)}", _remedy(error.code)
        ) from error
    except OSError as error:
        raise EnvironmentLackError(
            f"cannot {doing}: {error.strerror} ({error.filename})", _remedy(error.errno)
        ) from error


def _remedy(code: int | None) -> str:
    match code:
        case errno.EPERM | errno.EACCES | errno.EROFS:
            return "run as root, or in `unshare --user --map-root-user --net --mount --mount-proc`"
        case errno.EEXIST:
            return "run the mesh in a network namespace of its own, where nothing has that name"
        case errno.EOPNOTSUPP:
            return "load the kernel modules bridge and veth"
        case _:
            return "see the kernel's log"
