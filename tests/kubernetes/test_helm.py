"""deploy/chart with Helm itself: what it makes of it, and that it can install and remove it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from tests.deploy import chart
from tests.e2e.harness import TROTH, eventually
from tests.rig import cni
from tests.rig.harness import NODES, Cluster
from tests.rig.person import Person, commands

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

DEFINITION = "peerauthentications.security.istio.io"
CLUSTER_WIDE = (
    "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
)
WAIT = "--wait --timeout=120s"
UPGRADE = f"helm upgrade troth deploy/chart --namespace={chart.NAMESPACE}"
OTHER_VALUES = {
    "image": {"repository": "registry.example/troth", "tag": "9", "pullSecrets": [{"name": "x"}]},
    "trustDomain": "example.org",
    "controller": {
        "tolerations": [{"operator": "Exists"}],
        "metricsPort": 9464,
        "metricsFrom": [{"podSelector": {}}],
    },
    "node": {"metricsPort": 9464, "nodeSelector": {"kubernetes.io/os": "other"}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster on which nothing is installed, not even definitions."""
    with pytest.MonkeyPatch.context() as patch, Cluster(nodes=NODES[:1]) as cluster:
        # A container's `troth` is the one that is tested.
        patch.setenv("PATH", f"{Path(TROTH).parent}:{os.environ['PATH']}")
        cluster.delete(CustomResourceDefinition, DEFINITION)
        yield cluster


@pytest.fixture(scope="module")
def person(cluster: Cluster) -> Person:
    """Its administrator."""
    return Person(cluster)


@pytest.mark.parametrize("values", [{}, OTHER_VALUES], ids=["the chart's own", "others"])
def test_helm_makes_the_same_of_the_chart_as_the_plain_manifests_are_made_of(
    person: Person, values: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "values.json"
    file.write_bytes(msgspec.json.encode(values))
    text = person.type(
        f"helm template troth deploy/chart --namespace={chart.NAMESPACE} --values={file}"
    )
    ours = [made for path in chart.templates() for made in chart.objects(path.name, values)]
    assert by_name(yaml.safe_load_all(text)) == by_name(ours)


def test_helm_installs_upgrades_and_removes_troth(cluster: Cluster, person: Person) -> None:
    for command in commands("Install", language="sh")[:3]:
        person.type(f"{command} {WAIT}" if command.startswith("helm") else command)
    assert person.type(f"kubectl get crd {DEFINITION} -o name")
    ready = "kubectl -n troth-system get daemonset troth-node -o jsonpath={.status.numberReady}"
    assert person.type(ready) == "1"

    person.type(f"{UPGRADE} {WAIT} --set controller.replicas=1")
    replicas = (
        "kubectl -n troth-system get deployment troth-controller -o jsonpath={.spec.replicas}"
    )
    assert person.type(replicas) == "1"

    # The plugin is there by default, goes by one value, and comes with an upgrade to the default.
    (node,) = cluster.nodes.values()
    assert cni.is_chained(node.machine)
    person.type(f"{UPGRADE} {WAIT} --set node.cni.enabled=false")
    eventually(lambda: not cni.is_chained(node.machine), what="the end of the CNI plugin")
    person.type(f"{UPGRADE} {WAIT} --reset-values")
    eventually(lambda: cni.is_chained(node.machine), what="the CNI plugin again")

    person.type(f"helm uninstall troth --namespace={chart.NAMESPACE} {WAIT}")
    left = person.type(
        f"kubectl get daemonsets,deployments,networkpolicies -n {chart.NAMESPACE} -o name; "
        f"kubectl get {CLUSTER_WIDE} -o name | grep troth || true"
    )
    assert left == ""
    assert person.type(f"kubectl get crd {DEFINITION} -o name"), "policies must outlive troth"


def by_name(objects: Any) -> dict[tuple[str, str, str], Any]:
    """Objects by kind, namespace and name."""
    return {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each
        for each in objects
        if each
    }
