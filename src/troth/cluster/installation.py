"""troth in a cluster, read once: its pods, policies and nodes' reports, its leader, its roots."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.cluster.contract import (
    CONTROLLER,
    REPORT_ANNOTATION,
    REPORT_LABEL,
    SIGNING_ROOT_ANNOTATION,
    TRUST_BUNDLE,
    TRUST_BUNDLE_KEY,
    NodeReport,
    report_node,
)
from troth.cluster.state import NAMESPACES, PODS, POLICIES
from troth.cluster.world import pods_by_uid
from troth.errors import Problem
from troth.kube import wire
from troth.kube.client import ApiClient, Readings
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode
from troth.mesh.model import Namespace, Pod
from troth.policy.model import PeerAuthentication

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightkube import SingleConfig

    from troth.kube.resource import Item

T = TypeVar("T")

_SLACK = timedelta(seconds=5)
"""How far the clock of a Lease's holder may be behind."""


class Lease(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The fields of ``LeaseSpec`` (coordination.k8s.io/v1) that show whether its holder is alive.

    Attributes:
        holder_identity: The holder; empty after it was released.
        lease_duration_seconds: How long it is valid after a renewal.
        renew_time: When it was last renewed, by the holder's clock.
    """

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: datetime | None = None

    def is_current(self, now: datetime) -> bool:
        """Whether it has not expired at ``now``, by a clock other than the holder's."""
        if self.renew_time is None:
            return False
        duration = timedelta(seconds=self.lease_duration_seconds or 0)
        return now < self.renew_time + duration + _SLACK


class ReportedNode(msgspec.Struct, frozen=True, kw_only=True):
    """The last report of a node's agent.

    Attributes:
        node: The node's name.
        lease: Tells its age.
        report: None if it can't be read.
    """

    node: str
    lease: Lease
    report: NodeReport | None


class TrustBundleMap(msgspec.Struct, frozen=True, kw_only=True):
    """A trust bundle's ConfigMap.

    Attributes:
        namespace: The namespace of the ConfigMap.
        pem: The trusted roots.
        signing_root: Fingerprint of the root that new certificates chain to.
    """

    namespace: str
    pem: str
    signing_root: str


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What the API server knows about a mesh at one moment; None means no permission to read it.

    Attributes:
        namespace: The only one whose pods were read; empty if all were.
        namespaces: By name.
        pods: All of them, or those of that namespace.
        policies: Every valid PeerAuthentication that may be read.
        stored_policies: UID and generation of every stored one.
        nodes: The agents' reports.
        leader: The controller's lease; None also if there is none.
        bundles: By namespace.
        read_at: When it was read, by the API server's clock; None if it doesn't say.
        unenforced: Objects of kinds that Istio enforces and troth doesn't, as ``NAMESPACE/NAME`` by
            ``KIND.GROUP``; without those that may not be read.
        problems: Malformed objects and missing permissions.
    """

    namespace: str = ""
    namespaces: Mapping[str, Namespace] = {}
    pods: tuple[Pod, ...] = ()
    policies: tuple[PeerAuthentication, ...] = ()
    stored_policies: frozenset[tuple[str, int]] | None = frozenset()
    nodes: tuple[ReportedNode, ...] | None = ()
    leader: Lease | None = None
    bundles: Mapping[str, TrustBundleMap] | None = {}
    read_at: datetime | None = None
    unenforced: Mapping[str, tuple[str, ...]] = {}
    problems: tuple[Problem, ...] = ()


class _LeaseObject(wire.Object, frozen=True):
    spec: Lease = Lease()


class _ConfigMap(wire.Object, frozen=True):
    data: dict[str, str] | None = None


async def read_installation(
    config: SingleConfig, *, home: str, root_namespace: str, namespace: str = ""
) -> Installation:
    """Read the state of a cluster's mesh.

    Args:
        config: The API server's address and the credentials for it.
        home: The namespace of the controller and the node agents.
        root_namespace: Where mesh-wide policies live.
        namespace: Read only this one's pods.

    Raises:
        EnvironmentLackError: The permission to read namespaces, pods or policies is missing, and
            nothing can be said without them.
        TrothError: The API server can't be reached.
    """
    server = ApiClient(config)
    try:
        found = await _read(Readings(server), home, root_namespace, namespace)
        read_at = server.date
        unenforced = await _read_unenforced(Readings(server), namespace)
        return msgspec.structs.replace(found, unenforced=unenforced, read_at=read_at)
    finally:
        await server.aclose()


async def _read(readings: Readings, home: str, root_namespace: str, namespace: str) -> Installation:
    # The first request alone, so that a credential plugin is asked once.
    namespaces = await readings.read(msgspec.structs.replace(NAMESPACES, name=namespace))
    pods, policies, leases = await asyncio.gather(
        readings.read(PODS.within(namespace)),
        readings.read(POLICIES),
        readings.read(LEASES.within(home)),
    )
    bundles = [
        await readings.read(_BUNDLES.within(place))
        for place in dict.fromkeys((namespace, home) if namespace else ("",))
    ]
    stored = None if policies is None else frozenset((p.uid, p.generation) for p in policies)
    if policies is None and namespace:
        policies = await _policies_that_count(readings, namespace, root_namespace)
    if namespaces is None or pods is None or policies is None:
        essential = {str(each) for each in (NAMESPACES, PODS, POLICIES)}
        raise next(each.error for each in readings.unreadable if each.resource in essential)
    said = _values(leases or ())
    return Installation(
        namespace=namespace,
        namespaces={each.name: each for each in _values(namespaces)},
        pods=tuple(pods_by_uid(_values(pods)).values()),
        policies=tuple(_values(policies)),
        stored_policies=stored,
        nodes=None if leases is None else tuple(e for e in said if isinstance(e, ReportedNode)),
        leader=next((each for each in said if isinstance(each, Lease)), None),
        bundles=_by_namespace(bundles),
        problems=(
            *(each.problem for each in readings.unreadable),
            *(each for item in namespaces for each in item.problems),
            *(each for item in pods for each in item.problems),
            *(each for item in policies for each in item.problems),
        ),
    )


async def _read_unenforced(readings: Readings, namespace: str) -> dict[str, tuple[str, ...]]:
    """Those that may be read: many users lack the permission, and don't need it."""
    found = await asyncio.gather(
        *(readings.read(each.within(namespace)) for each in _UNENFORCED.values())
    )
    return {
        kind: tuple(sorted(_values(items)))
        for kind, items in zip(_UNENFORCED, found, strict=True)
        if items
    }


async def _policies_that_count(
    readings: Readings, namespace: str, root_namespace: str
) -> tuple[Item[PeerAuthentication], ...] | None:
    """The policies that may apply in a namespace, for users who may not read all."""
    found = [
        await readings.read(POLICIES.within(place))
        for place in dict.fromkeys((namespace, root_namespace))
    ]
    return None if None in found else tuple(item for items in found for item in items or ())


def _lease(raw: msgspec.Raw) -> ReportedNode | Lease | None:
    sent = decode(raw, _LeaseObject)
    return sent.spec if sent.metadata.name == CONTROLLER else _reported(sent)


def read_reported_node(raw: msgspec.Raw) -> ReportedNode | None:
    """What a Lease says about a node; None if it isn't a report."""
    return _reported(decode(raw, _LeaseObject))


def _reported(sent: _LeaseObject) -> ReportedNode | None:
    told = read_report(sent.metadata)
    return ReportedNode(node=told[0], lease=sent.spec, report=told[1]) if told else None


def read_report(metadata: wire.Metadata) -> tuple[str, NodeReport | None] | None:
    """The node whose report a Lease with this metadata is, and the report.

    Returns:
        None if the Lease isn't a report; with None for the report if that can't be read.
    """
    node = report_node(metadata.name)
    if node is None or (metadata.labels or {}).get(REPORT_LABEL) != "node":
        return None
    text = (metadata.annotations or {}).get(REPORT_ANNOTATION, "")
    try:
        return node, decode(text.encode(), NodeReport)
    except msgspec.DecodeError:
        return node, None


def _bundle(raw: msgspec.Raw) -> TrustBundleMap:
    sent = decode(raw, _ConfigMap)
    return TrustBundleMap(
        namespace=sent.metadata.namespace,
        pem=(sent.data or {}).get(TRUST_BUNDLE_KEY, ""),
        signing_root=(sent.metadata.annotations or {}).get(SIGNING_ROOT_ANNOTATION, ""),
    )


LEASES: Resource[ReportedNode | Lease] = Resource(
    plural="leases", group="coordination.k8s.io", read=reader("Lease", _lease)
)

# By name, so that RBAC can allow just these ConfigMaps.
_BUNDLES: Resource[TrustBundleMap] = Resource(
    plural="configmaps",
    read=reader("ConfigMap", _bundle),
    field_selector=f"metadata.name={TRUST_BUNDLE}",
)


def _key(raw: msgspec.Raw) -> str:
    header = decode(raw, wire.Headed).metadata
    return f"{header.namespace}/{header.name}"


def _istios(kind: str, plural: str, group: str, *versions: str) -> Resource[str]:
    return Resource(
        plural=plural,
        group=group,
        versions=versions,
        read=reader(kind, _key),
        is_optional=True,
        metadata_only=True,
    )


_UNENFORCED = {
    "AuthorizationPolicy.security.istio.io": _istios(
        "AuthorizationPolicy", "authorizationpolicies", "security.istio.io", "v1", "v1beta1"
    ),
    "DestinationRule.networking.istio.io": _istios(
        *("DestinationRule", "destinationrules", "networking.istio.io"),
        *("v1", "v1beta1", "v1alpha3"),
    ),
    "RequestAuthentication.security.istio.io": _istios(
        "RequestAuthentication", "requestauthentications", "security.istio.io", "v1", "v1beta1"
    ),
}


def _by_namespace(
    bundles: Iterable[tuple[Item[TrustBundleMap], ...] | None],
) -> dict[str, TrustBundleMap] | None:
    known = [items for items in bundles if items is not None]
    if not known:
        return None
    return {each.namespace: each for items in known for each in _values(items)}


def _values(items: Iterable[Item[T]]) -> list[T]:
    return [item.value for item in items if item.value is not None]
