"""Gathers the facts to judge from a cluster or this machine; read-only."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import subprocess
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.agent.admission import AdmissionLimits
from troth.agent.capture import complete_rules
from troth.check.facts import (
    DEFINITIONS,
    AgentsObject,
    ClusterFacts,
    Crd,
    MachineFacts,
    NetworkPolicy,
    NodeObject,
)
from troth.cluster.installation import LEASES, ReportedNode
from troth.kube import wire
from troth.kube.client import ApiClient, Readings
from troth.kube.errors import ForbiddenError, NotFoundError
from troth.kube.resource import ObjectKind
from troth.mesh.world import DEFAULT_HOME

if TYPE_CHECKING:
    from collections.abc import Collection

    from lightkube import SingleConfig

    from troth.kube.resource import Resource

T = TypeVar("T")

_NODES = ObjectKind(kind="Node", plural="nodes", shape=NodeObject).objects()
_NAMESPACES = ObjectKind(kind="Namespace", plural="namespaces", shape=wire.Object).objects()
_PODS = ObjectKind(kind="Pod", plural="pods", shape=wire.PodObject).objects()
_NETWORK_POLICIES = ObjectKind(
    kind="NetworkPolicy", plural="networkpolicies", group="networking.k8s.io", shape=NetworkPolicy
).objects()
_AGENTS = msgspec.structs.replace(
    ObjectKind(kind="DaemonSet", plural="daemonsets", group="apps", shape=AgentsObject).objects(),
    field_selector="metadata.name=troth-node",
)

# The permissions that installing needs at most: verb, API group, resource, whether in `home`.
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
    config: SingleConfig, *, wanted: Collection[str] = (), home: str = DEFAULT_HOME
) -> ClusterFacts:
    """Read a cluster; what may not be read goes to ``unreadable``.

    Args:
        config: Its address and the credentials for it.
        wanted: Namespaces to check as if they were in the mesh.
        home: The namespace that troth is or will be installed in.

    Raises:
        TrothError: It can't be reached.
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
            # Users who may not read it get no finding about it.
            agents=await _values(Readings(client), _AGENTS.within(home)),
            reports=tuple(
                each
                for each in await _values(Readings(client), LEASES.within(home))
                if isinstance(each, ReportedNode)
            ),
            unreadable=(*unreadable, *(each.resource for each in readings.unreadable)),
            wanted=frozenset(wanted),
            home=home,
        )


async def gather_namespace(config: SingleConfig, namespace: str) -> ClusterFacts:
    """Read what `judge_namespaces` needs from a cluster; what may not be read is left out.

    Raises:
        TrothError: It can't be reached.
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


_TOOLS = ("nft", "nsenter", "setpriv", "unshare")
_SECONDS = 10.0
_OWN_TABLES = frozenset({"troth", "troth_uplink", "troth-node", "kube-proxy"})
_NOT_PERMITTED = re.compile(r"unshare failed|Operation not permitted|uid_map")


def gather_machine() -> MachineFacts:
    """Gather the facts about this machine."""
    missing = tuple(tool for tool in _TOOLS if shutil.which(tool) is None)
    can_try = not {"nft", "unshare"} & {*missing}
    return MachineFacts(
        name=platform.node(),
        kernel=platform.release(),
        architecture=platform.machine(),
        missing_tools=missing,
        capture=_try_capture() if can_try else None,
        foreign_redirects=foreign_redirects(_ruleset()) if "nft" not in missing else (),
    )


def foreign_redirects(ruleset: str) -> tuple[str, ...]:
    """The chains of other programs that redirect TCP, in the output of ``nft list ruleset``.

    kube-proxy's don't count: they translate services' addresses, which is its task.
    """
    found: list[str] = []
    table = chain = ""
    for line in ruleset.splitlines():
        match line.split():
            case ["table", family, name, "{"]:
                table = f"{family} {name}" if name not in _OWN_TABLES else ""
            case ["chain", name, "{"]:
                chain = name
            case words if table and {"redirect", "tproxy", "REDIRECT", "TPROXY"} & {*words}:
                place = f"table {table}, chain {chain}"
                if place not in found:
                    found.append(place)
    return tuple(found)


def _try_capture() -> str | None:
    """Load the capture rules into a temporary network namespace.

    Returns:
        The kernel's error, or an empty text; None if no namespace can be created.
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    limits = AdmissionLimits(burst=4, total_burst=8, total_rate=1)  # any
    rules = complete_rules(admission=limits)
    done = _run(("unshare", *user, "--net", "nft", "--file", "-"), rules)
    if done is None or (done.returncode and _NOT_PERMITTED.search(done.stderr)):
        return None
    words = " ".join(done.stderr.split())[:200]
    return (words or f"exit code {done.returncode}") if done.returncode else ""


def _ruleset() -> str:
    done = _run(("nft", "list", "ruleset"), "")
    return done.stdout if done is not None and done.returncode == 0 else ""


def _run(command: tuple[str, ...], text: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
