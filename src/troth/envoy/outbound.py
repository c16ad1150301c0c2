"""The listener for what leaves a pod: it only says whose it is, and whether it is a service's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as components_pb2
from envoy.config.listener.v3 import listener_pb2

from troth.envoy.accesslog import unrouted_access_log
from troth.envoy.events import POD_STATE, Role
from troth.envoy.filters import (
    FROM_STATE,
    SHARED_ONCE,
    SHARED_TRANSITIVE,
    original_dst,
    set_filter_state,
    state,
    tcp_proxy,
)
from troth.envoy.limits import buffer_limit
from troth.envoy.matchers import (
    DESTINATION_PORT,
    choose_chain,
    choose_matcher,
    match_exact,
    match_range,
    match_ranges,
)
from troth.envoy.resources import INTERNAL_OUTBOUND, Message, listener_name, socket_address
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from troth.mesh.addresses import ExternalPort
    from troth.mesh.ports import PortSet
    from troth.mesh.view import LocalPod

_ORIGINAL_DST = "envoy.filters.listener.original_dst"


def match_services(ranges: Iterable[str], external_ports: Iterable[ExternalPort]) -> Message:
    """The matcher of all pods' `outbound`: what goes to a service, and what goes where it says.

    Args:
        ranges: Networks and addresses that are services' on all ports.
        external_ports: Ports of other addresses that are services', too.
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
    """What leaves the pod: says which pod it is and hands it to the shared internal listener.

    Args:
        local: The pod.
        services: `match_services`.
        log: The access log.
        ports: Where to listen.
    """
    uid = local.pod.uid
    netns = local.netns
    own = [
        # The address that the app has at its end, for the internal listener's access log.
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
        per_connection_buffer_limit_bytes=buffer_limit(),
        listener_filters=[original_dst()],
        filter_chains=[to_service, direct],
        # In the matcher and not in the chain itself: a new range must cut no connection.
        filter_chain_matcher=services,
        access_log=unrouted_access_log(uid, log),
        traffic_direction=base_pb2.TrafficDirection.OUTBOUND,
    )
    if local.has_ipv6:
        listener.additional_addresses.add(
            address=socket_address("::1", ports.outbound, netns=netns)
        )
    return listener
