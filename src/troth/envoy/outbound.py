"""The listeners for traffic leaving pods: one in each pod, and a shared one inside Envoy.

A pod's own listener only adds the pod's name, and finds connections to services. The internal one
knows the whole mesh and chooses the tunnel or plaintext by destination. A chain per identity pins
the server's certificate to exactly that identity (secure naming); an IP tree chooses it, with a map
of ports if some ports are exceptions.

Envoy ends the connections of a removed chain. So the chain of an identity that no pod has any more
stays for a while, though nothing chooses it: a pod that leaves the mesh keeps its connections.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, NamedTuple

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as components_pb2
from envoy.config.listener.v3 import listener_pb2

from troth.envoy.accesslog import POD_STATE, Role, failed_access_log, unrouted_access_log
from troth.envoy.filters import (
    DESTINATION_PORT,
    FROM_STATE,
    LOOPBACK,
    REFUSED,
    SHARED_ONCE,
    SHARED_TRANSITIVE,
    choose_chain,
    choose_matcher,
    match_exact,
    match_range,
    match_ranges,
    original_dst,
    set_filter_state,
    state,
    tcp_proxy,
)
from troth.envoy.limits import buffer_limit
from troth.envoy.resources import (
    ALONE,
    INTERNAL_OUTBOUND,
    Message,
    cluster_name,
    listener_name,
    socket_address,
)
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from troth.envoy.resources import Message
    from troth.mesh.addresses import ExternalPort
    from troth.mesh.ports import PortSet
    from troth.mesh.view import Destination, LocalPod
    from troth.table import Difference

_ORIGINAL_DST = "envoy.filters.listener.original_dst"


def match_services(ranges: Iterable[str], external_ports: Iterable[ExternalPort]) -> Message:
    """The matcher of all pods' `outbound`: connections to services, and all others.

    Args:
        ranges: Networks and addresses that belong to services on all ports.
        external_ports: Ports of other addresses that belong to services, too.
    """
    ports_of: dict[str, list[int]] = {}
    for port in external_ports:
        ports_of.setdefault(port.address, []).append(port.number)
    alike: dict[tuple[int, ...], list[str]] = {}
    for address, numbers in sorted(ports_of.items()):
        alike.setdefault(tuple(sorted(numbers)), []).append(address)
    service, direct = choose_chain("service"), choose_chain("direct")
    found = [match_range(sorted(ranges), service)]
    for ports, addresses in alike.items():
        by_port = match_exact(DESTINATION_PORT, {str(port): service for port in ports}, direct)
        found.append(match_range(addresses, choose_matcher(by_port)))
    return match_ranges(found, direct)


def outbound(
    local: LocalPod,
    services: Message,
    log: Path,
    ports: PortSet = PORT_SETS[0],
) -> Message:
    """Traffic leaving the pod: adds the pod's name and forwards to the shared internal listener.

    Args:
        local: The pod.
        services: `match_services`.
        log: The access log.
        ports: Where to listen.
    """
    uid = local.pod.uid
    netns = local.netns
    own = [
        # The app's own address, for the internal listener's access log.
        state(f"{_ORIGINAL_DST}.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%", shared=SHARED_ONCE),
        state(POD_STATE, uid, shared=SHARED_TRANSITIVE, factory="envoy.string"),
    ]
    to_service = components_pb2.FilterChain(
        name="service",
        filters=[
            set_filter_state(
                state("envoy.tcp_proxy.cluster", "svc|%DOWNSTREAM_LOCAL_ADDRESS%"), *own
            ),
            tcp_proxy(FROM_STATE, by_client=True),
        ],
    )
    direct = components_pb2.FilterChain(
        name="direct",
        filters=[
            set_filter_state(
                state(
                    f"{_ORIGINAL_DST}.local_ip", "%DOWNSTREAM_LOCAL_ADDRESS%", shared=SHARED_ONCE
                ),
                *own,
            ),
            tcp_proxy(INTERNAL_OUTBOUND),
        ],
    )
    listener = listener_pb2.Listener(
        name=listener_name(Role.OUTBOUND, uid),
        stat_prefix=listener_name(Role.OUTBOUND, uid),
        address=socket_address("127.0.0.1", ports.outbound, netns=netns),
        enable_reuse_port=ALONE,
        per_connection_buffer_limit_bytes=buffer_limit(),
        listener_filters=[original_dst()],
        filter_chains=[to_service, direct],
        # In the matcher, not in the chain: a new range must not end connections.
        filter_chain_matcher=services,
        access_log=unrouted_access_log(uid, log),
        traffic_direction=base_pb2.TrafficDirection.OUTBOUND,
    )
    if local.has_ipv6:
        listener.additional_addresses.add(
            address=socket_address("::1", ports.outbound, netns=netns)
        )
    return listener


_TOGETHER = 0.1
"""How much longer a chain may stay, as a fraction of the intended time."""


class _Way(NamedTuple):
    """How to reach destinations; those with equal values share a filter chain."""

    identity: str
    tunnel: bool
    exceptions: tuple[int, ...]

    @classmethod
    def to(cls, destination: Destination) -> _Way:
        return cls(
            str(destination.identity), destination.tunnel, tuple(sorted(destination.exceptions))
        )


class InternalOutbound:
    """Builds the listener, after each change from the parts that are still valid.

    Args:
        log: The access log.
        drain_seconds: How long chains stay that nothing chooses any more; at most a tenth longer,
            if it is built in time (`prune_at`).
    """

    def __init__(self, log: Path, drain_seconds: float = 0.0) -> None:
        self._log = log
        self._drain_seconds = drain_seconds
        self._left: dict[str, float] = {}
        self._addresses: dict[_Way, list[str]] = {}
        self._ranges: dict[_Way, bytes] = {}
        self._chains: dict[str, Message] = {}

    def follow(self, changes: Difference[Destination], before: Mapping[str, Destination]) -> None:
        """Apply changes of the destinations since ``before``."""
        for uid, destination in changes.removed.items():
            del uid
            self._leave(destination)
        for uid, destination in changes.upserted.items():
            if uid in before:
                self._leave(before[uid])
            self._join(destination)

    @property
    def prune_at(self) -> float | None:
        """When to build it without chains that have stayed long enough; None if none stays.

        Each build drops those. As Envoy reloads the whole listener each time, this is a while after
        the first of them expires, so that several are dropped at once.
        """
        if not self._left:
            return None
        return min(self._left.values()) + self._drain_seconds * (1 + _TOGETHER)

    def build(self, now: float = 0.0) -> Message:
        """The listener for the current destinations.

        Args:
            now: The time of a monotonic clock, in seconds.
        """
        ways = sorted(self._addresses)
        named = {way.identity for way in ways}
        left = self._chains.keys() - named
        since = {each: self._left.get(each, now) for each in left}
        self._left = {
            each: then for each, then in since.items() if now - then < self._drain_seconds
        }
        identities = sorted(named | self._left.keys())
        self._chains = {each: self._chains.get(each) or _to_tunnel(each) for each in identities}
        for way in ways:
            if way not in self._ranges:
                self._ranges[way] = match_range(self._addresses[way], _lead(way))
        # Loopback is never captured: only a connection made directly to 15001 has it, and would
        # loop.
        loopback = match_range(LOOPBACK, choose_chain(REFUSED))
        return listener_pb2.Listener(
            name=INTERNAL_OUTBOUND,
            internal_listener=listener_pb2.Listener.InternalListenerConfig(),
            per_connection_buffer_limit_bytes=buffer_limit(),
            listener_filters=[original_dst()],
            filter_chains=[_to_plain(), *self._chains.values()],
            filter_chain_matcher=match_ranges(
                [loopback, *(self._ranges[way] for way in ways)], choose_chain("plain")
            ),
            access_log=failed_access_log(Role.OUTBOUND, None, self._log),
        )

    def _join(self, destination: Destination) -> None:
        way = _Way.to(destination)
        addresses = self._addresses.setdefault(way, [])
        for address in destination.addresses:
            insort(addresses, address)
        self._ranges.pop(way, None)

    def _leave(self, destination: Destination) -> None:
        way = _Way.to(destination)
        addresses = self._addresses[way]
        for address in destination.addresses:
            addresses.remove(address)
        self._ranges.pop(way, None)
        if not addresses:
            del self._addresses[way]


def _lead(way: _Way) -> Message:
    """The action that chooses the way's chain."""
    usual, exception = choose_chain(f"tunnel-{way.identity}"), choose_chain("plain")
    if not way.tunnel:
        usual, exception = exception, usual
    if not way.exceptions:
        return usual
    by_port = {str(port): exception for port in way.exceptions}
    return choose_matcher(match_exact(DESTINATION_PORT, by_port, usual))


def _to_tunnel(identity: str) -> Message:
    return components_pb2.FilterChain(
        name=f"tunnel-{identity}",
        filters=[
            set_filter_state(
                state("envoy.network.upstream_subject_alt_names", identity, shared=SHARED_ONCE),
                state(
                    "envoy.network.upstream_server_name",
                    "%DOWNSTREAM_LOCAL_PORT%",
                    shared=SHARED_ONCE,
                ),
                state("envoy.tcp_proxy.cluster", _of_pod("tunnel")),
            ),
            tcp_proxy(FROM_STATE),
        ],
    )


def _to_plain() -> Message:
    return components_pb2.FilterChain(
        name="plain",
        filters=[
            set_filter_state(state("envoy.tcp_proxy.cluster", _of_pod("plain"))),
            tcp_proxy(FROM_STATE),
        ],
    )


def _of_pod(role: str) -> str:
    return cluster_name(f"%FILTER_STATE({POD_STATE}:PLAIN)%", role)
