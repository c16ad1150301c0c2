r"""From one node's view of the mesh to the whole configuration of its Envoy, as one snapshot.

There are three listeners in each pod's network namespace, and one shared internal listener:

==============  =====================  =====================================================
listener        where                  what
==============  =====================  =====================================================
``tunnel-in``   pod, \*:15007          mutual TLS from other pods, then on to the app
``plain-in``    pod, \*:15006          everything else that enters: accepted or refused by policy
``outbound``    pod, loopback:15001    everything that leaves: adds the pod's name, forwards
``outbound``    internal, shared       by destination: which identity, tunnel or not
==============  =====================  =====================================================

A change of policy must end the plaintext connections it forbids and no others. Envoy ends the
connections of a removed filter chain, and replaces a whole listener (ending all its connections)
when anything but filter chains and their matcher differs. So everything else is the same in every
mode, each known port has its own chain, and a chain is the same under PERMISSIVE and DISABLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.envoy.clusters import external_cluster, outbound_cluster, pod_clusters, service_clusters
from troth.envoy.inbound import plain_in, tunnel_in
from troth.envoy.limits import POD_CONNECTIONS, runtime_layer
from troth.envoy.outbound import InternalOutbound, match_services, outbound
from troth.envoy.resources import keeping_alive
from troth.envoy.snapshot import Edits
from troth.envoy.tls import bundle_secret, svid_secret
from troth.mesh.ports import PORT_SETS
from troth.mesh.view import NodeView
from troth.sockets import KEEPALIVE_SECONDS, Keepalive
from troth.table import difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from troth.envoy.snapshot import Snapshot
    from troth.identity.bundle import TrustBundle
    from troth.identity.svid import X509Svid
    from troth.mesh.addresses import ExternalPort
    from troth.mesh.ports import PortSet
    from troth.mesh.view import LocalPod


def build_snapshot(
    view: NodeView,
    svids: Iterable[X509Svid],
    bundle: TrustBundle,
    *,
    access_log: Path,
    ports: PortSet = PORT_SETS[0],
    pod_connections: int = POD_CONNECTIONS,
) -> Snapshot:
    """Build every resource of the node's Envoy; arguments as for `SnapshotKeeper`."""
    keeper = SnapshotKeeper(access_log=access_log, ports=ports, pod_connections=pod_connections)
    return keeper.update(view, svids, bundle)


class SnapshotKeeper:
    """Builds successive snapshots, each time only the resources that a change touches.

    Args:
        access_log: The FIFO that connection events are read from.
        ports: Where to listen.
        pod_connections: See `Limits`.
        drain_seconds: How long open tunnel connections stay when no pod has the identity of their
            server any more; see `InternalOutbound`.
        keepalive: For every socket in a pod.
    """

    def __init__(
        self,
        *,
        access_log: Path,
        ports: PortSet = PORT_SETS[0],
        pod_connections: int = POD_CONNECTIONS,
        drain_seconds: float = 0.0,
        keepalive: Keepalive | None = None,
    ) -> None:
        self._access_log = access_log
        self._ports = ports
        self._pod_connections = pod_connections
        self._drain_seconds = drain_seconds
        self._keepalive = keepalive or Keepalive.of(KEEPALIVE_SECONDS)
        self._past: _Past | None = None

    @property
    def prune_at(self) -> float | None:
        """When to update even without changes; None if nothing is kept temporarily."""
        return self._past.prune_at if self._past is not None else None

    def update(
        self,
        view: NodeView,
        svids: Iterable[X509Svid],
        bundle: TrustBundle,
        *,
        now: float = 0.0,
    ) -> Snapshot:
        """Build the current configuration of the node's Envoy.

        Args:
            view: What the node enforces and where its pods' connections go.
            svids: Certificates of the view's identities. Envoy doesn't activate a listener before
                it has its certificate.
            bundle: The roots that every certificate must chain to.
            now: The time of a monotonic clock, in seconds.
        """
        # If an update fails half-way, start afresh next time.
        past, self._past = self._past, None
        if past is None:
            outbound = InternalOutbound(self._access_log, self._drain_seconds)
            past = _Past(
                self._access_log,
                self._ports,
                self._pod_connections,
                outbound,
                keepalive=self._keepalive,
            )
        snapshot = past.update(view, {str(svid.spiffe_id): svid for svid in svids}, bundle, now)
        self._past = past
        return snapshot


class _Past:
    """The last snapshot, and its inputs."""

    def __init__(
        self,
        access_log: Path,
        ports: PortSet,
        pod_connections: int,
        internal_outbound: InternalOutbound,
        *,
        keepalive: Keepalive,
    ) -> None:
        self._access_log = access_log
        self._ports = ports
        self._pod_connections = pod_connections
        self._keepalive = keepalive
        self._view = NodeView()
        self._svids: Mapping[str, X509Svid] = {}
        self._bundle: TrustBundle | None = None
        self._internal_outbound = internal_outbound
        self._edits = Edits()
        self._edits.put("internal outbound", outbound_cluster(), self._internal_outbound.build())
        self._edits.put("limits", runtime_layer((), pod_connections))

    def update(
        self, view: NodeView, svids: Mapping[str, X509Svid], bundle: TrustBundle, now: float
    ) -> Snapshot:
        """The snapshot for another view and other credentials."""
        # Without a pod in the mesh there are no clients.
        view = view if view.local_pods else NodeView()
        before, self._view = self._view, view
        self._follow_pods(before, view)
        self._follow_destinations(before, view, now)
        self._follow_services(before, view)
        self._follow_credentials(svids, bundle)
        return self._edits.snapshot()

    def _follow_pods(self, before: NodeView, view: NodeView) -> None:
        edits, log, ports = self._edits, self._access_log, self._ports
        pods = difference(before.local_pods, view.local_pods)
        for uid in pods.removed:
            for part in ("pod", "plain-in", "outbound"):
                edits.put(f"{part} {uid}")
        if pods.removed or pods.upserted.keys() - before.local_pods.keys():
            edits.put("limits", runtime_layer(view.local_pods, self._pod_connections))
        moved = {
            uid: local
            for uid, local in pods.upserted.items()
            if uid not in before.local_pods or _place(before.local_pods[uid]) != _place(local)
        }
        for uid, local in moved.items():
            made = (*pod_clusters(local), tunnel_in(local, log, ports))
            edits.put(f"pod {uid}", *keeping_alive(made, self._keepalive))
        for uid, local in pods.upserted.items():
            made = (plain_in(local, log, ports),)
            edits.put(f"plain-in {uid}", *keeping_alive(made, self._keepalive))
        same = (before.service_ranges, before.external_ports) == (
            view.service_ranges,
            view.external_ports,
        )
        leaving = moved if same else view.local_pods
        if leaving:
            services = match_services(view.service_ranges, view.external_ports)
            for uid, local in leaving.items():
                made = (outbound(local, services, log, ports),)
                edits.put(f"outbound {uid}", *keeping_alive(made, self._keepalive))

    @property
    def prune_at(self) -> float | None:
        """See `InternalOutbound`."""
        return self._internal_outbound.prune_at

    def _follow_destinations(self, before: NodeView, view: NodeView, now: float) -> None:
        changes = difference(before.destinations, view.destinations)
        if changes:
            self._internal_outbound.follow(changes, before.destinations)
        if changes or (self.prune_at is not None and now >= self.prune_at):
            listener = self._internal_outbound.build(now)
            self._edits.put("internal outbound", outbound_cluster(), listener)

    def _follow_services(self, before: NodeView, view: NodeView) -> None:
        services = difference(before.services, view.services)
        for key in services.removed:
            self._edits.put(f"service {key}")
        for key, service in services.upserted.items():
            self._edits.put(f"service {key}", *service_clusters(service))
        ports = difference(_by_place(before.external_ports), _by_place(view.external_ports))
        for place in ports.removed:
            self._edits.put(f"external {place}")
        for place, port in ports.upserted.items():
            self._edits.put(f"external {place}", external_cluster(port))

    def _follow_credentials(self, svids: Mapping[str, X509Svid], bundle: TrustBundle) -> None:
        before, self._svids = self._svids, svids
        changes = difference(before, svids)
        for identity in changes.removed:
            self._edits.put(f"certificate {identity}")
        for identity, svid in changes.upserted.items():
            self._edits.put(f"certificate {identity}", svid_secret(svid))
        if bundle != self._bundle:
            self._bundle = bundle
            self._edits.put("bundle", bundle_secret(bundle))


def _place(local: LocalPod) -> tuple[object, ...]:
    """The fields of a pod that its clusters and listeners depend on, except for `plain_in`."""
    return local.netns, local.pod.addresses, local.identity


def _by_place(ports: Iterable[ExternalPort]) -> dict[str, ExternalPort]:
    return {f"{port.address} {port.number}": port for port in ports}
