"""The listeners for traffic entering a pod: through the tunnel, and outside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as components_pb2
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import duration_pb2

from troth.envoy.accesslog import Role, connected_access_log, failed_access_log
from troth.envoy.filters import (
    DESTINATION_IP,
    DESTINATION_PORT,
    LOOPBACK,
    REFUSED,
    SERVER_NAME,
    choose_chain,
    choose_matcher,
    match_exact,
    match_range,
    match_ranges,
    match_whole,
    original_dst,
    original_src,
    set_filter_state,
    state,
    tcp_proxy,
    tls_inspector,
)
from troth.envoy.limits import HANDSHAKE_SECONDS, HELLO_SECONDS, buffer_limit
from troth.envoy.resources import (
    ALONE,
    RESET,
    Message,
    cluster_name,
    listener_name,
    socket_address,
)
from troth.envoy.tls import server_socket
from troth.mesh.ports import OWN_PORTS, PORT_SETS

if TYPE_CHECKING:
    from pathlib import Path

    from troth.mesh.ports import PortSet
    from troth.mesh.view import LocalPod

_PORT_NUMBER = (
    "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
)


def tunnel_in(local: LocalPod, log: Path, ports: PortSet = PORT_SETS[0]) -> Message:
    """The tunnel's server side: mutual TLS, then the pod's own address at the requested port.

    The destination is always this pod's own address, and a server name that isn't a port, or is one
    of troth's own, matches no chain. Envoy connects to the app only after it has verified the
    client's certificate.
    """
    uid = local.pod.uid
    chains, by_address = [], {}
    for address in local.pod.addresses:
        name = f"tunnel-{address}"
        host = f"[{address}]" if ":" in address else address
        by_address[address] = choose_chain(name)
        chains.append(
            components_pb2.FilterChain(
                name=name,
                transport_socket=server_socket(local.identity),
                transport_socket_connect_timeout=duration_pb2.Duration(seconds=HANDSHAKE_SECONDS),
                filters=[
                    set_filter_state(
                        state(
                            "envoy.network.transport_socket.original_dst_address",
                            f"{host}:%REQUESTED_SERVER_NAME%",
                        ),
                        # Only for retries: the first attempt's destination is set already.
                        after_handshake=[state("envoy.tcp_proxy.cluster", RESET)],
                    ),
                    tcp_proxy(
                        cluster_name(uid, "app"),
                        connected_access_log(Role.TUNNEL_IN, uid, log),
                        late=True,
                        or_state=True,
                    ),
                ],
            )
        )
    to_own_address = match_exact(DESTINATION_IP, by_address)
    named_port = match_whole(SERVER_NAME, _PORT_NUMBER, choose_matcher(to_own_address))
    return listener_pb2.Listener(
        name=listener_name(Role.TUNNEL_IN, uid),
        stat_prefix=listener_name(Role.TUNNEL_IN, uid),
        **_inbound_addresses(local, ports.tunnel),
        enable_reuse_port=ALONE,
        per_connection_buffer_limit_bytes=buffer_limit(),
        listener_filters=[tls_inspector(), original_src()],
        listener_filters_timeout=duration_pb2.Duration(seconds=HELLO_SECONDS),
        filter_chains=chains,
        filter_chain_matcher=match_exact(
            SERVER_NAME,
            {str(port): choose_chain(REFUSED) for port in OWN_PORTS},
            choose_matcher(named_port),
        ),
        access_log=failed_access_log(Role.TUNNEL_IN, uid, log),
        traffic_direction=base_pb2.TrafficDirection.INBOUND,
    )


def plain_in(local: LocalPod, log: Path, ports: PortSet = PORT_SETS[0]) -> Message:
    """Traffic outside the tunnel: a chain for each port that accepts plaintext; others refuse."""
    uid = local.pod.uid
    plaintext = local.plaintext
    known = local.verdict.ports.keys() | plaintext.exceptions
    passes = {number: number in plaintext for number in known}
    others_pass = plaintext.usual
    names = {number: f"plain-{number}" for number, allowed in sorted(passes.items()) if allowed}

    by_port = {str(port): choose_chain(names.get(port, REFUSED)) for port in sorted(passes)}
    # A connection to one of troth's own ports would loop.
    by_port |= {str(port): choose_chain(REFUSED) for port in OWN_PORTS}

    def chain(name: str) -> Message:
        return components_pb2.FilterChain(
            name=name,
            filters=[
                tcp_proxy(cluster_name(uid, "app"), connected_access_log(Role.PLAIN_IN, uid, log))
            ],
        )

    return listener_pb2.Listener(
        name=listener_name(Role.PLAIN_IN, uid),
        stat_prefix=listener_name(Role.PLAIN_IN, uid),
        **_inbound_addresses(local, ports.inbound),
        enable_reuse_port=ALONE,
        per_connection_buffer_limit_bytes=buffer_limit(),
        listener_filters=[original_dst(), original_src()],
        filter_chains=[chain(name) for name in [*names.values(), "plain"]]
        if others_pass
        else [chain(name) for name in names.values()] or [_never()],
        # The kernel drops packets from outside to loopback, but only after the redirect, which
        # changes their destination. Accepting them would expose apps that listen on loopback only.
        filter_chain_matcher=match_ranges(
            [match_range(LOOPBACK, choose_chain(REFUSED))],
            choose_matcher(
                match_exact(
                    DESTINATION_PORT,
                    by_port,
                    choose_chain("plain") if others_pass else None,
                )
            ),
        ),
        access_log=failed_access_log(Role.PLAIN_IN, uid, log),
        traffic_direction=base_pb2.TrafficDirection.INBOUND,
    )


def _never() -> Message:
    # Envoy requires at least one chain; no matcher chooses this one.
    return components_pb2.FilterChain(name="never", filters=[tcp_proxy("none")])


def _inbound_addresses(local: LocalPod, port: int) -> dict[str, Any]:
    """A listener's address fields.

    One socket per family rather than one for both: Envoy's workers look listeners up by address,
    ignoring the namespace, and their entry for the IPv4 half of a dual-stack socket isn't removed
    with its listener if another pod has the same address. So the listener stayed with its
    connections after its parts were freed, until the pod got another one; then Envoy crashed.
    """
    v4 = socket_address("0.0.0.0", port, netns=local.netns)  # noqa: S104 - in the pod's own namespace
    if not local.has_ipv6:
        return {"address": v4}
    v6 = socket_address("::", port, netns=local.netns)
    return {
        "address": v6,
        "additional_addresses": [listener_pb2.AdditionalAddress(address=v4)],
    }
