"""The world as one value, and who is in the mesh."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from troth.identity.spiffe import TrustDomain
from troth.mesh.model import MESH_LABEL, Namespace, Pod, Service
from troth.policy.model import PeerAuthentication

DEFAULT_ROOT_NAMESPACE = "istio-system"
"""Where mesh-wide policies live unless told otherwise (Istio's ``meshConfig.rootNamespace``)."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a pod belongs in the mesh, and the one reason why."""

    in_mesh: bool
    why: str


class World(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known at one moment.

    Attributes:
        trust_domain: Of every identity in the mesh.
        root_namespace: Policies without a selector there are mesh-wide.
        namespaces: By name.
        pods: By UID.
        services: By ``NAMESPACE/NAME``.
        policies: Every valid PeerAuthentication, in no particular order.
    """

    trust_domain: TrustDomain
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    namespaces: Mapping[str, Namespace] = {}
    pods: Mapping[str, Pod] = {}
    services: Mapping[str, Service] = {}
    policies: tuple[PeerAuthentication, ...] = ()

    def membership(self, pod: Pod) -> Membership:
        """Whether ``pod`` is to be captured: its namespace opts in, the pod may opt out."""
        namespace = self.namespaces.get(pod.namespace, Namespace(name=pod.namespace))
        return membership(
            namespace, pod.labels, host_network=pod.host_network, static=bool(pod.kubelet_uid)
        )


def membership(
    namespace: Namespace,
    pod_labels: Mapping[str, str],
    *,
    host_network: bool = False,
    static: bool = False,
) -> Membership:
    """Whether a pod with ``pod_labels`` in ``namespace`` is in the mesh.

    The two `MESH_LABEL` rules decide, and ``spec.hostNetwork``: there is no network namespace to
    capture that would be the pod's alone. A static pod has no service account, and so no identity.
    """
    if not namespace.in_mesh:
        return Membership(
            in_mesh=False, why=f"namespace {namespace.name} is not labelled {MESH_LABEL}: enabled"
        )
    if pod_labels.get(MESH_LABEL) == "disabled":
        return Membership(in_mesh=False, why=f"the pod is labelled {MESH_LABEL}: disabled")
    if host_network:
        return Membership(
            in_mesh=False, why="the pod is on its node's network (hostNetwork), so not captured"
        )
    if static:
        return Membership(
            in_mesh=False, why="the pod is a static one, without a service account to certify"
        )
    return Membership(
        in_mesh=True, why=f"namespace {namespace.name} is labelled {MESH_LABEL}: enabled"
    )
