"""Reads the objects of a cluster, as far as the user's permissions go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.cluster.manifests import read_cluster
from troth.explain.audit import Known
from troth.policy.scope import Scope

if TYPE_CHECKING:
    from lightkube import SingleConfig

    from troth.cluster.manifests import ClusterManifests
    from troth.explain.explain import Explanation
    from troth.manifests.collect import Manifests

_NAMESPACES = "namespaces"
_PODS = "pods"
_POLICIES = "peerauthentications.security.istio.io"


class Cluster(NamedTuple):
    """The cluster to query.

    Attributes:
        config: Its address and the credentials for it.
        namespace: The namespace of names without one.
    """

    config: SingleConfig
    namespace: str


def read_objects(
    cluster: Cluster,
    *,
    root_namespace: str,
    namespace: str = "",
    keep: str = "",
    entrances: bool = False,
) -> ClusterManifests:
    """The objects applied to a cluster; see `troth.cluster.manifests.read_cluster`.

    Raises:
        TrothError: It can't be reached.
    """
    return asyncio.run(
        read_cluster(
            cluster.config,
            root_namespace=root_namespace,
            namespace=namespace,
            keep=keep,
            entrances=entrances,
        )
    )


def known_clients(cluster: Cluster, root_namespace: str) -> Known:
    """The known clients of a namespace's pods, from the objects that may be read.

    Raises:
        TrothError: The cluster can't be reached.
    """
    found = read_objects(cluster, root_namespace=root_namespace, entrances=True)
    lacking = {each.resource: each.problem for each in found.unreadable}
    if lacking:
        # Users who may read only this namespace see the entrances inside it.
        own = read_objects(
            cluster, root_namespace=root_namespace, namespace=cluster.namespace, entrances=True
        )
        if not lacking.keys().isdisjoint({_NAMESPACES, _PODS}):
            found = own
        still = {each.resource for each in own.unreadable} | {_PODS}
        lacking = {name: each for name, each in lacking.items() if name in still}
    lacking.pop(_POLICIES, None)  # they say nothing about clients
    return Known.of(found.manifests, lacking.values())


def with_known_workloads(found: ClusterManifests) -> Manifests:
    """A cluster's objects, without any workloads if some are unknown.

    If some are, nothing can be said about policies that select none.
    """
    if found.has_all_workloads:
        return found.manifests
    return msgspec.structs.replace(found.manifests, pods={}, deployments={}, workloads={})


def require_essentials(found: ClusterManifests, *, but_in: str = "") -> None:
    """Require all namespaces and policies that modes depend on.

    Args:
        found: The objects read.
        but_in: The namespace whose policies may be missing.

    Raises:
        EnvironmentLackError: One of them may not be read.
    """
    for each in found.unreadable:
        if each.resource in {_NAMESPACES, _POLICIES} and (
            each.resource == _NAMESPACES or not but_in or each.namespace != but_in
        ):
            raise each.error


def require_no_default(found: ClusterManifests, explanation: Explanation) -> None:
    """Refuse an explanation that an unreadable policy could change.

    Raises:
        EnvironmentLackError: A mode is the default only because mesh-wide policies are unknown.
    """
    decided = (explanation.decided_by, *(port.decided_by for port in explanation.ports.values()))
    if any(each.scope is Scope.DEFAULT for each in decided):
        for lack in found.unreadable:
            if lack.resource == _POLICIES:
                raise lack.error
