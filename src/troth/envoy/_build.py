r"""From one node's view of the mesh to everything its Envoy is told, as one snapshot.

There are three listeners in each pod's network namespace, and one internal one that all share:

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

from typing import TYPE_CHECKING

from troth.envoy._clusters import external_cluster, outbound_cluster, pod_clusters, service_clusters
from troth.envoy._inbound import plain_in, tunnel_in
from troth.envoy._outbound import internal_outbound, match_services, outbound
from troth.envoy._ports import PORT_SETS
from troth.envoy._snapshot import Resource, Snapshot
from troth.envoy._tls import bundle_secret, svid_secret

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from troth.envoy._ports import PortSet
    from troth.envoy._proto import Message
    from troth.identity import TrustBundle, X509Svid
    from troth.mesh import NodeView


def build_snapshot(
    view: NodeView,
    svids: Iterable[X509Svid],
    bundle: TrustBundle,
    *,
    access_log: Path,
    ports: PortSet = PORT_SETS[0],
) -> Snapshot:
    """Build every resource of the node's Envoy.

    Args:
        view: What the node enforces and where its pods' connections go.
        svids: Certificates of the view's identities. Envoy holds a listener back until its
            certificate is there.
        bundle: What every certificate must chain to.
        access_log: The FIFO that connection events are read from.
        ports: Where to listen.
    """
    messages: list[Message] = [
        outbound_cluster(),
        internal_outbound(view.destinations, access_log),
        bundle_secret(bundle),
        *map(svid_secret, svids),
    ]
    services = match_services(view.service_ranges, view.external_ports)
    for local in view.local_pods:
        messages += pod_clusters(local)
        messages += (
            tunnel_in(local, access_log, ports),
            plain_in(local, access_log, ports),
            outbound(local, services, access_log, ports),
        )
    for service in view.services:
        messages += service_clusters(service)
    messages += map(external_cluster, view.external_ports)
    return Snapshot.of(Resource.of(message.name, message) for message in messages)
