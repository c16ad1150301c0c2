"""One instrumented handshake with a pod's tunnel port, from the network namespace of another pod.

It bypasses the client's proxy: with the pod's own certificate it shows step by step what that proxy
and the server's exchange, and with other credentials how a server refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from troth.connect.attempt import REPORT_SECONDS, first_report, open_socket
from troth.connect.report import Credentials, Trace
from troth.errors import PeerError
from troth.handshake.certificates import ClientCredentials
from troth.handshake.connect import trace_connection
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import PrivateKeyPem, new_key
from troth.mesh.decisions import client_decision, server_decision
from troth.mesh.ports import ENVOY_MARK, TUNNEL_PORT
from troth.mesh.target import pod_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.connect.attempt import ClientPod
    from troth.identity.bundle import TrustBundle
    from troth.identity.spiffe import SpiffeId
    from troth.identity.svid import X509Svid
    from troth.mesh.model import Endpoint
    from troth.mesh.target import Target
    from troth.mesh.world import World
    from troth.traffic.ledger import Connections

_LIFETIME = timedelta(hours=1)
_CONNECT_SECONDS = 5


class Identities(NamedTuple):
    """The sources of a traced client's credentials.

    Attributes:
        current: The certificates in use.
        roots: The mesh's, to verify servers.
        authority: The mesh's own; None if its key is elsewhere.
    """

    current: Mapping[SpiffeId, X509Svid]
    roots: TrustBundle
    authority: CertificateAuthority | None = None


async def trace(
    world: World,
    place: ClientPod,
    target: Target,
    *,
    credentials: Credentials,
    claimed: SpiffeId | None = None,
    identities: Identities,
    connections: Connections,
    payload: bytes,
    timeout: float,  # noqa: ASYNC109 - running out of time is a result here, not an exception
    node: str = "",
) -> Trace:
    """Make one traced handshake with the tunnel port of the pod behind ``target``.

    Args:
        world: Names the ends of the connection.
        place: The pod that connects.
        target: The destination; of several endpoints the first.
        credentials: What the client presents.
        claimed: The identity that a forged certificate claims; by default the pod's own.
        identities: Where certificates come from.
        connections: The reports of the node's proxy.
        payload: Data to send after the handshake: only the app's answer shows that Envoy has
            accepted the client.
        timeout: Seconds for the handshake and the answer.
        node: The node of the proxy; empty if all pods are on one node.

    Raises:
        PeerError: There is no tunnel to that destination, or no such certificate.
        TrothError: The pod has ended.
    """
    endpoint = _endpoint(world, target)
    destination = pod_at(world, endpoint.address)
    own = place.pod.spiffe_id(world.trust_domain)
    shown = client_credentials(
        credentials, identities, own=own, claimed=claimed, now=datetime.now(UTC)
    )
    # Marked like Envoy's sockets, or the pod's capture would redirect it into another tunnel.
    with (
        contextlib.closing(open_socket(place, endpoint.address, mark=ENVOY_MARK)) as sock,
        connections.following() as new,
    ):
        connections.expect(
            place.pod,
            target,
            own_port=sock.getsockname()[1],
            seconds=timeout + _CONNECT_SECONDS + REPORT_SECONDS,
        )
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (endpoint.address, TUNNEL_PORT))
        except OSError as error:
            saw = os.strerror(error.errno) if error.errno else f"no answer in {_CONNECT_SECONDS} s"
            raise PeerError(
                str(destination),
                f"does not take connections at its tunnel port {TUNNEL_PORT}: {saw}",
                "see whether it is captured, and whether Envoy runs: troth status",
            ) from error
        source = sock.getsockname()[:2]
        report = await trace_connection(
            sock,
            server_name=str(endpoint.port),
            client=shown,
            bundle=identities.roots.pem,
            expected=destination.spiffe_id(world.trust_domain) if destination else None,
            timeout=timeout,
            payload=payload,
        )
        sock.close()
        event = None
        if destination is None or node in {"", destination.node}:
            event = await first_report(
                new, lambda seen: (seen.source.address, seen.source.port) == source
            )
    return Trace(
        client=client_decision(world, place.pod, endpoint),
        server=server_decision(world, endpoint),
        credentials=credentials,
        claimed=None if shown is None else shown.facts[0].spiffe_id,
        source_port=source[1],
        report=report,
        event=event,
    )


def client_credentials(
    kind: Credentials,
    identities: Identities,
    *,
    own: SpiffeId,
    claimed: SpiffeId | None = None,
    now: datetime,
) -> ClientCredentials | None:
    """The certificate and key of this kind; None to present none.

    Args:
        kind: What to present.
        identities: Where certificates come from.
        own: The client's identity. No valid certificate but its own is ever presented.
        claimed: The identity in a forged certificate; by default ``own``.
        now: The time.

    Raises:
        PeerError: The node has no certificate for ``own``, or can't make one.
    """
    match kind:
        case Credentials.NONE:
            return None
        case Credentials.OWN:
            if (svid := identities.current.get(own)) is None:
                raise PeerError(
                    "troth",
                    f"no captured pod has the identity {own}",
                    "trace from a pod that is in the mesh, or without its own certificate",
                )
            return ClientCredentials.from_svid(svid)
        case Credentials.EXPIRED:
            if identities.authority is None:
                raise PeerError(
                    "troth",
                    "an expired certificate can't be shown: no node agent has the authority's key",
                    "show another CA's, or none",
                )
            return _forged(identities.authority, claimed or own, now=now - 2 * _LIFETIME)
        case Credentials.FOREIGN_CA:
            foreign = CertificateAuthority.self_signed(own.trust_domain, now=now)
            return _forged(foreign, claimed or own, now=now)


def _forged(
    authority: CertificateAuthority, claimed: SpiffeId, *, now: datetime
) -> ClientCredentials:
    key = new_key()
    issued = authority.sign(build_csr(key, claimed), now=now, lifetime=_LIFETIME)
    return ClientCredentials(chain=issued.chain, key=PrivateKeyPem(key).reveal())


def _endpoint(world: World, target: Target) -> Endpoint:
    if not target.endpoints:
        raise PeerError(
            "troth",
            f"no ready pod is behind {target.address}:{target.port}",
            "see which pods are ready: troth status",
        )
    endpoint = target.endpoints[0]
    decision = server_decision(world, endpoint)
    if not decision.tunnel:
        raise PeerError("troth", f"there is no tunnel: {decision.why}", "trace to a captured pod")
    return endpoint
