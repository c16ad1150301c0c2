"""Short ways to write what a cluster is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from troth.check.facts import (
    ClusterFacts,
    Crd,
    NetworkPolicy,
    NodeObject,
)
from troth.check.judge import judge_cluster
from troth.kube import wire

if TYPE_CHECKING:
    from troth.check.judge import Check

STATUS: dict[str, object] = {"status": {}}
CRD = msgspec.convert(
    {
        "metadata": {"name": "peerauthentications.security.istio.io"},
        "spec": {"versions": [{"name": "v1", "served": True, "subresources": STATUS}]},
    },
    Crd,
)


def read(text: str, kind: type) -> Any:
    """An object from YAML, by way of JSON as the API has it."""
    return msgspec.json.decode(msgspec.json.encode(yaml.safe_load(text)), type=kind)


def namespace(text: str) -> wire.Object:
    found: wire.Object = read(f"metadata: {{{text}}}", wire.Object)
    return found


def pod(spec: str, metadata: str = "") -> wire.PodObject:
    found: wire.PodObject = read(
        f"metadata: {{namespace: shop, name: web, {metadata}}}\nspec: {{{spec}}}", wire.PodObject
    )
    return found


def network_policy(spec: str, name: str = "web") -> NetworkPolicy:
    found: NetworkPolicy = read(
        f"metadata: {{namespace: shop, name: {name}}}\nspec: {{{spec}}}", NetworkPolicy
    )
    return found


def node(kernel: str = "6.1.0", **info: str) -> NodeObject:
    return msgspec.convert(
        {
            "metadata": {"name": "a"},
            "status": {"nodeInfo": {"kernelVersion": kernel, "architecture": "amd64", **info}},
        },
        NodeObject,
    )


MESH = namespace("name: shop, labels: {troth.dev/mesh: enabled}")


def judged(**facts: Any) -> Check:
    """Judge a good cluster that differs in some facts."""
    good: dict[str, Any] = {
        "server": "the API",
        "version": "v1.35.4",
        "crd": CRD,
        "review_crd": CRD,
    }
    return judge_cluster(ClusterFacts(**(good | facts)))


def codes(check: Check) -> list[str]:
    return [finding.code for finding in check.findings]
