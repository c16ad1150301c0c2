"""Asks a cluster what `judge_cluster` wants to know."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.check.facts import (
    DEFINITIONS,
    ClusterFacts,
    Crd,
    NamespaceObject,
    NetworkPolicy,
    NodeObject,
    PodObject,
)
from troth.cluster.contract import DEFAULT_NAMESPACE
from troth.kube.client import ApiClient, Readings
from troth.kube.errors import ForbiddenError, NotFoundError
from troth.kube.resource import ObjectKind, Resource, model_reader

if TYPE_CHECKING:
    from collections.abc import Collection

    from lightkube import SingleConfig

T = TypeVar("T")

_NODES = Resource(plural="nodes", read=model_reader(NodeObject))
_NAMESPACES = Resource(plural="namespaces", read=model_reader(NamespaceObject))
_PODS = Resource(plural="pods", read=model_reader(PodObject))
_NETWORK_POLICIES = Resource(
    plural="networkpolicies", group="networking.k8s.io", read=model_reader(NetworkPolicy)
)

# What installing needs, at its most demanding: verb, API group, resource, whether in `home`.
_INSTALLING = (
    ("create", "", "namespaces", False),
    ("create", "apiextensions.k8s.io", "customresourcedefinitions", False),
    ("create", "rbac.authorization.k8s.io", "clusterroles", False),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles", False),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("create", "admissionregistration.k8s.io", "validatingadmissionpolicies", False),
    ("create", "apps", "daemonsets", True),
    ("create", "apps", "deployments", True),
)


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


_DEFINITION = ObjectKind(
    kind="CustomResourceDefinition",
    plural="customresourcedefinitions",
    group="apiextensions.k8s.io",
    shape=Crd,
)
_ACCESS_REVIEW = ObjectKind(
    kind="SelfSubjectAccessReview",
    plural="selfsubjectaccessreviews",
    group="authorization.k8s.io",
    shape=_Review,
)


async def gather_cluster(
    config: SingleConfig, *, wanted: Collection[str] = (), home: str = DEFAULT_NAMESPACE
) -> ClusterFacts:
    """Ask a cluster; what may not be read is noted.

    Args:
        config: How to reach it, and as whom.
        wanted: Namespaces to be looked at as if they were in the mesh.
        home: Where troth is, or is to be, installed.

    Raises:
        TrothError: It can't be asked.
    """
    async with aclosing(ApiClient(config)) as client:
        version = await client.version()
        readings = Readings(client)
        definition, unreadable = await _definition(client, "peerauthentications.security.istio.io")
        reviews, _ = await _definition(client, "connectionreviews.troth.dev")
        return ClusterFacts(
            server=client.name,
            version=version,
            crd=definition,
            review_crd=reviews,
            lacking=await _lacking(client, home),
            nodes=await _values(readings, _NODES),
            namespaces=await _values(readings, _NAMESPACES),
            pods=await _values(readings, _PODS),
            network_policies=await _values(readings, _NETWORK_POLICIES),
            unreadable=(*unreadable, *(each.resource for each in readings.unreadable)),
            wanted=frozenset(wanted),
            home=home,
        )


async def gather_namespace(config: SingleConfig, namespace: str) -> ClusterFacts:
    """Ask a cluster what `judge_namespace` wants to know; what may not be read is left out.

    Raises:
        TrothError: It can't be asked.
    """
    async with aclosing(ApiClient(config)) as client:
        readings = Readings(client)
        named = msgspec.structs.replace(_NAMESPACES, name=namespace)
        return ClusterFacts(
            server="",
            version="",
            namespaces=await _values(readings, named),
            pods=await _values(readings, _PODS.within(namespace)),
            network_policies=await _values(readings, _NETWORK_POLICIES.within(namespace)),
            unreadable=tuple(each.resource for each in readings.unreadable),
            wanted=frozenset({namespace}),
        )


async def _definition(client: ApiClient, name: str) -> tuple[Crd | None, tuple[str, ...]]:
    try:
        return await client.get(_DEFINITION, name), ()
    except NotFoundError:
        return None, ()
    except ForbiddenError:
        return None, (DEFINITIONS,)


async def _values(readings: Readings, resource: Resource[T]) -> tuple[T, ...]:
    items = await readings.read(resource)
    return tuple(item.value for item in items or () if item.value is not None)


async def _lacking(client: ApiClient, home: str) -> tuple[str, ...]:
    allowed = await asyncio.gather(
        *(
            _may(client, verb, group, resource, home if inside else "")
            for verb, group, resource, inside in _INSTALLING
        )
    )
    return tuple(
        f"{verb} {resource}"
        for (verb, _, resource, _), may in zip(_INSTALLING, allowed, strict=True)
        if not may
    )


async def _may(client: ApiClient, verb: str, group: str, resource: str, namespace: str) -> bool:
    asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    answer = await client.create(_ACCESS_REVIEW, {"spec": {"resourceAttributes": asked}})
    return answer.status.allowed
