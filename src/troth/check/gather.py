"""Asks a cluster what `judge_cluster` wants to know."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth._contract import DEFAULT_NAMESPACE
from troth.check.facts import (
    DEFINITIONS,
    ClusterFacts,
    Crd,
    NamespaceObject,
    NetworkPolicy,
    NodeObject,
    PodObject,
)
from troth.errors import EnvironmentLackError
from troth.kube.client import ApiRequests, ApiServer
from troth.kube.readings import Readings
from troth.kube.resource import Resource, model_reader

if TYPE_CHECKING:
    from collections.abc import Collection

    from lightkube import SingleConfig

T = TypeVar("T")

_DEFINITION = (
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peerauthentications.security.istio.io"
)
_REVIEW_DEFINITION = (
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/connectionreviews.troth.dev"
)
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

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


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    git_version: str = ""


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


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
    async with aclosing(ApiRequests(config)) as requests, aclosing(ApiServer(config)) as server:
        version = await requests.get("/version", _Version)
        readings = Readings(server)
        definition, unreadable = await _definition(requests)
        reviews, _ = await _definition(requests, _REVIEW_DEFINITION)
        return ClusterFacts(
            server=requests.name,
            version=version.git_version if version else "",
            crd=definition,
            review_crd=reviews,
            lacking=await _lacking(requests, home),
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
    async with aclosing(ApiServer(config)) as server:
        readings = Readings(server)
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


async def _definition(
    requests: ApiRequests, path: str = _DEFINITION
) -> tuple[Crd | None, tuple[str, ...]]:
    try:
        return await requests.get(path, Crd), ()
    except EnvironmentLackError:
        return None, (DEFINITIONS,)


async def _values(readings: Readings, resource: Resource[T]) -> tuple[T, ...]:
    items = await readings.read(resource)
    return tuple(item.value for item in items or () if item.value is not None)


async def _lacking(requests: ApiRequests, home: str) -> tuple[str, ...]:
    allowed = await asyncio.gather(
        *(
            _may(requests, verb, group, resource, home if inside else "")
            for verb, group, resource, inside in _INSTALLING
        )
    )
    return tuple(
        f"{verb} {resource}"
        for (verb, _, resource, _), may in zip(_INSTALLING, allowed, strict=True)
        if not may
    )


async def _may(requests: ApiRequests, verb: str, group: str, resource: str, namespace: str) -> bool:
    asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = await requests.post(_REVIEWS, review, _Review)
    return answer is not None and answer.status.allowed
