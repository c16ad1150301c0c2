"""docs/install.md, as a person follows it: every command of its consoles, one after the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import ConfigMap, Namespace
from tests.e2e.harness import TROTH, eventually
from tests.rig import cni
from tests.rig.harness import NODES, Cluster
from tests.rig.mesh import SERVER, Load
from tests.rig.objects import find
from tests.rig.person import Person

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
DEFINITION = "peerauthentications.security.istio.io"
URL = "http://web.finance:8080"
CAPTURED = "kubectl get pods -A -o 'jsonpath={.items[*].metadata.annotations.troth\\.dev/captured}'"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster with somebody's services, and without troth."""
    with pytest.MonkeyPatch.context() as patch, Cluster(nodes=NODES[:2]) as cluster:
        patch.setenv("PATH", f"{Path(TROTH).parent}:{os.environ['PATH']}")
        cluster.delete(CustomResourceDefinition, DEFINITION)
        for namespace, name, node, command in (
            ("finance", "web", "node-1", (sys.executable, SERVER, "web", "http:8080")),
            ("finance", "friend", "node-2", ()),
            ("legacy", "stranger", "node-2", ()),
        ):
            cluster.namespace(namespace)
            metadata = {"namespace": namespace, "name": name, "labels": {"app": name}}
            cluster.run_pod({"metadata": metadata, "spec": {"nodeName": node}}, command)
        cluster.kubectl("expose", "pod", "web", "--namespace=finance", "--port=8080")
        yield cluster


def test_the_page_is_followed_from_the_check_to_the_end(cluster: Cluster) -> None:
    person = Person(cluster)

    def answers(namespace: str, client: str) -> bool:
        return cluster.fetch(namespace, client, URL) == "web 8080 /"

    eventually(lambda: answers("legacy", "stranger"), what="the service")
    person.follow("Check")
    person.follow("Install")
    assert all(cni.is_chained(node.machine) for node in cluster.nodes.values())
    person.follow("Put a namespace into the mesh")
    assert answers("finance", "friend")
    assert answers("legacy", "stranger")
    person.follow("Lock it down")
    person.follow("Ask why")
    assert not answers("legacy", "stranger")
    assert answers("finance", "friend")
    old = person.root()
    with Load(cluster, "finance", "friend", URL.removeprefix("http://")):
        person.follow("Replace the root")
    assert person.root() != old
    assert person.type(CAPTURED) == "true true"
    person.follow("Remove")
    assert answers("legacy", "stranger")
    assert answers("finance", "friend")
    cluster.await_gone(Namespace, "troth-system")
    assert find(cluster.client, ConfigMap, "troth-trust-bundle", "finance") is None
    for node in cluster.nodes.values():
        assert "troth" not in node.run("nft", "list", "tables").stdout
        assert not cni.is_chained(node.machine)
    assert find(cluster.client, CustomResourceDefinition, DEFINITION) is not None
