r"""Listeners: three in each pod's network namespace, and one internal one that all pods share.

==============  =====================  =====================================================
listener        where                  what
==============  =====================  =====================================================
``tunnel-in``   pod, \*:15007          mutual TLS from other pods, then on to the app
``plain-in``    pod, \*:15006          all else that enters: passed or refused, by policy
``outbound``    pod, loopback:15001    all that leaves: names the pod, sends it on
``outbound``    internal, shared       looks at the destination: which identity, tunnel or not
==============  =====================  =====================================================

A change of policy must cut the plaintext connections it forbids and nothing else. Envoy ends the
connections of a filter chain that is gone, and replaces a whole listener (cutting all of its
connections) when anything but filter chains and their matcher differs. So all else is the same in
every mode, each known port has a chain of its own, and a chain looks the same under PERMISSIVE and
DISABLE.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as components_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from google.protobuf import duration_pb2, wrappers_pb2
from xds.core.v3 import cidr_pb2
from xds.type.matcher.v3 import ip_pb2, matcher_pb2, string_pb2
from xds.type.matcher.v3 import regex_pb2 as xds_regex_pb2

from troth.envoy._accesslog import (
    connected_access_log,
    connected_log_options,
    failed_access_log,
    unrouted_access_log,
)
from troth.envoy._events import POD_STATE
from troth.envoy._ports import INBOUND_PORT, OUTBOUND_PORT, OWN_PORTS, TUNNEL_PORT
from troth.envoy._proto import (
    SHARED_ONCE,
    SHARED_TRANSITIVE,
    Message,
    choose_chain,
    choose_matcher,
    match_exact,
    match_input,
    network_filter,
    pack,
    set_filter_state,
    socket_address,
    state,
)
from troth.envoy._reasons import Role
from troth.envoy._tls import server_socket

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from troth.mesh import Destination, LocalPod

INTERNAL_OUTBOUND = "outbound"
"""The internal listener, and the cluster that leads to it."""

_REFUSED = "refused"  # no chain has this name
_ORIGINAL_DST = "envoy.filters.listener.original_dst"

_DESTINATION_IP = match_input("ip", network_inputs_pb2.DestinationIPInput())
_DESTINATION_PORT = match_input("port", network_inputs_pb2.DestinationPortInput())
_SERVER_NAME = match_input("server-name", network_inputs_pb2.ServerNameInput())

_PORT_NUMBER = (
    "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
)
_LOOPBACK = ("127.0.0.0/8", "::1/128")


def cluster_name(uid: str, role: str) -> str:
    """The cluster of pod ``uid`` for ``role``: ``app``, ``plain`` or ``tunnel``."""
    return f"{uid}|{role}"


def service_cluster_name(address: str, port: int) -> str:
    """The cluster of a service's virtual IP and port."""
    return f"svc|[{address}]:{port}" if ":" in address else f"svc|{address}:{port}"


def tunnel_in(local: LocalPod, log: Path) -> Message:
    """The tunnel's end: mutual TLS, then the pod's own address at the port the client named.

    The destination is this pod's own address by construction, and a server name that isn't a
    port, or is one of troth's own, matches no chain. Nothing is dialled before the client's
    certificate has been verified.
    """
    uid = local.pod.uid
    chains, by_address = [], matcher_pb2.Matcher.MatcherTree.MatchMap()
    for address in local.pod.addresses:
        name = f"tunnel-{address}"
        host = f"[{address}]" if ":" in address else address
        by_address.map[address].CopyFrom(choose_chain(name))
        chains.append(
            components_pb2.FilterChain(
                name=name,
                transport_socket=server_socket(local.identity),
                filters=[
                    set_filter_state(
                        state(
                            "envoy.network.transport_socket.original_dst_address",
                            f"{host}:%REQUESTED_SERVER_NAME%",
                        )
                    ),
                    _tcp_proxy(
                        cluster_name(uid, "app"),
                        connected_access_log(Role.TUNNEL_IN, uid, log),
                        late=True,
                    ),
                ],
            )
        )
    to_own_address = match_exact(_DESTINATION_IP, dict(by_address.map))
    named_port = matcher_pb2.Matcher(
        matcher_list=matcher_pb2.Matcher.MatcherList(
            matchers=[
                matcher_pb2.Matcher.MatcherList.FieldMatcher(
                    predicate=matcher_pb2.Matcher.MatcherList.Predicate(
                        single_predicate=matcher_pb2.Matcher.MatcherList.Predicate.SinglePredicate(
                            input=_SERVER_NAME,
                            value_match=string_pb2.StringMatcher(
                                safe_regex=xds_regex_pb2.RegexMatcher(
                                    google_re2=xds_regex_pb2.RegexMatcher.GoogleRE2(),
                                    regex=_PORT_NUMBER,
                                )
                            ),
                        )
                    ),
                    on_match=choose_matcher(to_own_address),
                )
            ]
        )
    )
    return listener_pb2.Listener(
        name=f"tunnel-in|{uid}",
        address=_inbound_address(local, TUNNEL_PORT),
        listener_filters=[
            _listener_filter("tls_inspector", tls_inspector_pb2.TlsInspector()),
        ],
        filter_chains=chains,
        filter_chain_matcher=match_exact(
            _SERVER_NAME,
            {str(port): choose_chain(_REFUSED) for port in OWN_PORTS},
            choose_matcher(named_port),
        ),
        access_log=failed_access_log(Role.TUNNEL_IN, uid, log),
        traffic_direction=base_pb2.TrafficDirection.INBOUND,
    )


def plain_in(local: LocalPod, log: Path) -> Message:
    """What enters without the tunnel: a chain for each port that takes plaintext, else refused."""
    uid = local.pod.uid
    verdict = local.verdict
    passes = {number: local.takes_plaintext(port.mode) for number, port in verdict.ports.items()}
    others_pass = local.takes_plaintext(verdict.mode)
    names = {number: f"plain-{number}" for number, allowed in sorted(passes.items()) if allowed}

    by_port = {str(port): choose_chain(names.get(port, _REFUSED)) for port in sorted(passes)}
    # A connection that names a port of ours as its destination would loop.
    by_port |= {str(port): choose_chain(_REFUSED) for port in OWN_PORTS}

    def chain(name: str) -> Message:
        return components_pb2.FilterChain(
            name=name,
            filters=[
                _tcp_proxy(cluster_name(uid, "app"), connected_access_log(Role.PLAIN_IN, uid, log))
            ],
        )

    return listener_pb2.Listener(
        name=f"plain-in|{uid}",
        address=_inbound_address(local, INBOUND_PORT),
        listener_filters=[_original_dst()],
        filter_chains=[chain(name) for name in [*names.values(), "plain"]]
        if others_pass
        else [chain(name) for name in names.values()] or [_never()],
        filter_chain_matcher=match_exact(
            _DESTINATION_PORT,
            by_port,
            choose_chain("plain") if others_pass else None,
        ),
        access_log=failed_access_log(Role.PLAIN_IN, uid, log),
        traffic_direction=base_pb2.TrafficDirection.INBOUND,
    )


def outbound(local: LocalPod, service_ranges: Iterable[str], log: Path) -> Message:
    """What leaves the pod: says which pod it is and hands it to the shared internal listener."""
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
            _tcp_proxy("from filter state"),
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
            _tcp_proxy(INTERNAL_OUTBOUND),
        ],
    )
    listener = listener_pb2.Listener(
        name=f"outbound|{uid}",
        address=socket_address("127.0.0.1", OUTBOUND_PORT, netns=netns),
        listener_filters=[_original_dst()],
        filter_chains=[to_service, direct],
        # In the matcher and not in the chain itself: a new range must cut no connection.
        filter_chain_matcher=_match_ranges(
            [(sorted(service_ranges), choose_chain("service"))], choose_chain("direct")
        ),
        access_log=unrouted_access_log(uid, log),
        traffic_direction=base_pb2.TrafficDirection.OUTBOUND,
    )
    if _has_ipv6(local):
        listener.additional_addresses.add(address=socket_address("::1", OUTBOUND_PORT, netns=netns))
    return listener


def internal_outbound(destinations: Iterable[Destination], log: Path) -> Message:
    """The one listener that knows the whole mesh: by destination, the tunnel or plaintext.

    A chain per identity pins the server's certificate to exactly that identity (secure naming);
    an IP tree leads to it, with a map of ports where some ports are the exception.
    """
    groups: dict[tuple[str, bool, frozenset[int]], list[str]] = {}
    for destination in destinations:
        key = (str(destination.identity), destination.tunnel, destination.exceptions)
        groups.setdefault(key, []).extend(destination.addresses)

    identities = sorted({identity for identity, _, _ in groups})
    # Loopback is never captured: only a connection made to 15001 by hand has it, and passing it on
    # would loop.
    ranges: list[tuple[Iterable[str], Message]] = [(_LOOPBACK, choose_chain(_REFUSED))]
    for (identity, tunnel, exceptions), addresses in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1], sorted(item[0][2]))
    ):
        usual, exception = choose_chain(f"tunnel-{identity}"), choose_chain("plain")
        if not tunnel:
            usual, exception = exception, usual
        on_match = usual
        if exceptions:
            on_match = choose_matcher(
                match_exact(
                    _DESTINATION_PORT,
                    {str(port): exception for port in sorted(exceptions)},
                    usual,
                )
            )
        ranges.append((sorted(addresses), on_match))
    return listener_pb2.Listener(
        name=INTERNAL_OUTBOUND,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        listener_filters=[_original_dst()],
        filter_chains=[_to_plain(), *map(_to_tunnel, identities)],
        filter_chain_matcher=_match_ranges(ranges, choose_chain("plain")),
        access_log=failed_access_log(Role.OUTBOUND, None, log),
    )


def _match_ranges(ranges: Iterable[tuple[Iterable[str], Message]], otherwise: Message) -> Message:
    """A matcher that finds the most specific network that the destination's address is in."""
    found = [
        ip_pb2.IPMatcher.IPRangeMatcher(
            ranges=[_cidr(network) for network in networks], on_match=on_match
        )
        for networks, on_match in ranges
        if networks
    ]
    if not found:
        return matcher_pb2.Matcher(on_no_match=otherwise)
    return matcher_pb2.Matcher(
        matcher_tree=matcher_pb2.Matcher.MatcherTree(
            input=_DESTINATION_IP,
            custom_match=match_input("ip", ip_pb2.IPMatcher(range_matchers=found)),
        ),
        on_no_match=otherwise,
    )


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
            _tcp_proxy("from filter state"),
        ],
    )


def _to_plain() -> Message:
    return components_pb2.FilterChain(
        name="plain",
        filters=[
            set_filter_state(state("envoy.tcp_proxy.cluster", _of_pod("plain"))),
            _tcp_proxy("from filter state"),
        ],
    )


def _of_pod(role: str) -> str:
    return cluster_name(f"%FILTER_STATE({POD_STATE}:PLAIN)%", role)


def _never() -> Message:
    # Envoy wants at least one chain; no matcher names this one.
    return components_pb2.FilterChain(name="never", filters=[_tcp_proxy("none")])


def _tcp_proxy(cluster: str, log: list[Message] | None = None, *, late: bool = False) -> Message:
    """Bytes both ways, for as long as both ends like.

    Args:
        cluster: Where to, unless filter state says otherwise.
        log: The access log to write when the upstream connection stands.
        late: Dial only after the TLS handshake, so that no byte and no connection reaches the
            app on behalf of a client that isn't authenticated.
    """
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix="tcp",
        cluster=cluster,
        # A proxy nobody asked for must not end connections that the two apps keep idle.
        idle_timeout=duration_pb2.Duration(seconds=0),
    )
    if log:
        proxy.access_log.extend(log)
        proxy.access_log_options.CopyFrom(connected_log_options())
    if late:
        proxy.upstream_connect_mode = tcp_proxy_pb2.UpstreamConnectMode.ON_DOWNSTREAM_TLS_HANDSHAKE
        proxy.max_early_data_bytes.CopyFrom(wrappers_pb2.UInt32Value(value=0))
    return network_filter("tcp_proxy", proxy)


def _listener_filter(name: str, config: Message) -> Message:
    return components_pb2.ListenerFilter(name=name, typed_config=pack(config))


def _original_dst() -> Message:
    return _listener_filter("original_dst", original_dst_pb2.OriginalDst())


def _has_ipv6(local: LocalPod) -> bool:
    return any(":" in address for address in local.pod.addresses)


def _inbound_address(local: LocalPod, port: int) -> Message:
    if _has_ipv6(local):
        return socket_address("::", port, netns=local.netns, dual_stack=True)
    return socket_address("0.0.0.0", port, netns=local.netns)  # noqa: S104 - in the pod's own namespace


def _cidr(network: str) -> Message:
    address, _, length = network.partition("/")
    bits = int(length) if length else ip_address(address).max_prefixlen
    return cidr_pb2.CidrRange(
        address_prefix=address, prefix_len=wrappers_pb2.UInt32Value(value=bits)
    )
