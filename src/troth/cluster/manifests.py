"""Turns a cluster's objects, read once, into the manifests that people applied.

Pods and ReplicaSets that another object created are left out, as are pods and jobs that have ended.
So a question about a cluster has the same answer as about the files applied to it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from troth.errors import Location
from troth.kube import wire
from troth.kube.client import ApiClient, Readings, Unreadable
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode
from troth.manifests.collect import Manifests, collect
from troth.manifests.entrances import ENTRANCES
from troth.manifests.kinds import KINDS
from troth.manifests.yaml import Document
from troth.mesh.model import PodPhase
from troth.policy.model import KIND as POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightkube import SingleConfig

NAMESPACES = "namespaces"
POLICIES = "peerauthentications.security.istio.io"

_PLURALS = {
    "Namespace": "namespaces",
    POLICY: "peerauthentications",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "DaemonSet": "daemonsets",
    "ReplicaSet": "replicasets",
    "CronJob": "cronjobs",
    "Job": "jobs",
    "Pod": "pods",
    "Service": "services",
}
_NO_WORKLOADS = frozenset({"Namespace", POLICY, "Service"})
_MAKE_PODS = _PLURALS.keys() - _NO_WORKLOADS
_PLACE = "the cluster"  # in place of a file; removed at the end


class ClusterManifests(msgspec.Struct, frozen=True, kw_only=True):
    """The objects applied to a cluster.

    Attributes:
        manifests: The objects; missing permissions are among the problems.
        created: When each PeerAuthentication, even a refused one, was created, by
            ``NAMESPACE/NAME``.
        unreadable: What may not be read.
    """

    manifests: Manifests
    created: Mapping[str, datetime] = {}
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def has_all_workloads(self) -> bool:
        """Whether every kind of workload could be read."""
        workloads = {f"{resource_of(kind)}" for kind in _MAKE_PODS}
        return all(each.resource not in workloads for each in self.unreadable)


class _Ended(msgspec.Struct, frozen=True):
    """The states of a Pod and of a Job."""

    phase: PodPhase | None = None
    conditions: list[wire.PodCondition] | None = None


class _Running(msgspec.Struct, frozen=True):
    status: _Ended = _Ended()

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        phase = self.status.phase
        return (phase is not None and phase.is_final) or any(
            each.type in {"Complete", "Failed"} and each.status == "True"
            for each in self.status.conditions or ()
        )


class _Object(msgspec.Struct, frozen=True, kw_only=True):
    """An object, with the fields that tell whether a person created it."""

    kind: str
    key: str
    uid: str
    document: dict[str, Any]
    owner: str
    created: datetime | None
    is_over: bool


async def read_cluster(
    config: SingleConfig,
    *,
    root_namespace: str,
    namespace: str = "",
    keep: str = "",
    entrances: bool = False,
) -> ClusterManifests:
    """Read the objects applied to a cluster.

    Args:
        config: The API server's address and the credentials for it.
        root_namespace: Where mesh-wide policies live.
        namespace: Read only this one's objects, and the root namespace's policies.
        keep: ``NAMESPACE/NAME`` of objects to keep even if another created them or they have
            ended.
        entrances: Also read the objects through which clients outside the mesh reach Services;
            with a namespace, its own and the cluster-scoped ones.

    Raises:
        TrothError: The API server can't be reached.
    """
    server = ApiClient(config)
    readings = Readings(server)
    try:
        # The first request alone, so that a credential plugin is asked once.
        items = [*(await readings.read(resource_of("Namespace", namespace)) or ())]
        doors = await _served_entrances(server) if entrances else ()
        others = [
            resource_of(kind, place)
            for kind in (*_PLURALS, *doors)
            if kind != "Namespace"
            for place in _places(kind, namespace, root_namespace)
        ]
        for found in await asyncio.gather(*map(readings.read, others)):
            items += found or ()
    finally:
        await server.aclose()
    objects = [item.value for item in items if item.value is not None]
    manifests = _without_places(collect(_documents(objects, keep), stored=True))
    problems = (
        *(each.problem for each in readings.unreadable),
        *(problem for item in items for problem in item.problems),
        *manifests.problems,
    )
    return ClusterManifests(
        manifests=msgspec.structs.replace(manifests, problems=problems),
        created={
            each.key: each.created for each in objects if each.kind == POLICY and each.created
        },
        unreadable=tuple(readings.unreadable),
    )


async def _served_entrances(server: ApiClient) -> Iterable[str]:
    """Those whose API is installed: RBAC may forbid reading kinds that don't exist."""
    groups = await server.groups()
    return [kind for kind, row in ENTRANCES.items() if groups is None or row.group in groups]


def _places(kind: str, namespace: str, root_namespace: str) -> Iterable[str]:
    return (
        dict.fromkeys((namespace, root_namespace)) if namespace and kind == POLICY else [namespace]
    )


def resource_of(kind: str, namespace: str = "") -> Resource[_Object]:
    """Objects of a kind, as `read_cluster` reads them."""
    entrance = ENTRANCES.get(kind)
    row = entrance or KINDS[kind]
    if not row.namespaced and kind != "Namespace":
        namespace = ""
    return Resource(
        plural=entrance.plural if entrance else _PLURALS[kind],
        group=row.group,
        versions=row.versions,
        read=reader(kind, functools.partial(_object, kind)),
        is_optional=kind == POLICY or entrance is not None,
        namespace="" if kind == "Namespace" else namespace,
        name=namespace if kind == "Namespace" else "",
    )


def _object(kind: str, raw: msgspec.Raw) -> _Object:
    metadata = decode(raw, wire.Object).metadata
    owners = [each.uid for each in metadata.owner_references or () if each.controller]
    return _Object(
        kind=kind,
        key=metadata.key,
        uid=metadata.uid,
        # API servers leave apiVersion and kind out of the items of typed lists.
        document=_type(kind) | decode(raw, dict[str, Any]),
        owner=next(iter(owners), ""),
        created=metadata.creation_timestamp,
        is_over=kind in {"Pod", "Job"} and decode(raw, _Running).is_over,
    )


def _type(kind: str) -> dict[str, str]:
    if entrance := ENTRANCES.get(kind):
        version = f"{entrance.group}/{entrance.versions[0]}"
        return {"apiVersion": version, "kind": kind.partition(".")[0]}
    return {"apiVersion": KINDS[kind].api_versions[0], "kind": kind}


def _documents(objects: Iterable[_Object], keep: str) -> Iterator[Document]:
    objects = list(objects)
    known = {each.uid for each in objects} - {""}
    for number, each in enumerate(objects):
        is_made = each.owner in known and each.kind in _MAKE_PODS
        if each.key == keep or not (each.is_over or is_made):
            place = Location(_PLACE, number)
            yield Document(value=each.document, location=place)


def _without_places(manifests: Manifests) -> Manifests:
    """The same objects without locations, as they came from no file."""
    return msgspec.structs.replace(
        manifests,
        problems=tuple(msgspec.structs.replace(each, location=None) for each in manifests.problems),
        policies={
            key: msgspec.structs.replace(each, location=None)
            for key, each in manifests.policies.items()
        },
        unread=frozenset(),
    )
