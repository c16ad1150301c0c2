"""docs/install.md on real nodes, as a person follows it, with kubectl and with Helm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Namespace
from tests.e2e.harness import eventually
from tests.rig.mesh import Load
from tests.rig.nodes.cluster import LOAD
from tests.rig.objects import find
from tests.rig.person import Person

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster

DEFINITIONS = ("peerauthentications.security.istio.io", "connectionreviews.troth.dev")
URL = "web.finance:8080"
NODES = ("node-1", "node-2")


@pytest.fixture(autouse=True)
def namespaces(cluster: RealCluster) -> Iterator[None]:
    """Somebody's services, which know nothing of troth."""
    for namespace in ("finance", "legacy"):
        cluster.namespace(namespace)
    cluster.run("finance", "web", ("python3", "/app/hello.py", "web", "http:8080"), nodes=NODES)
    cluster.kubectl("expose", "deployment", "web", "--namespace=finance", "--port=8080")
    cluster.run("finance", "friend", nodes=("node-2",))
    cluster.run("legacy", "stranger", nodes=("node-2",))
    for namespace in ("finance", "legacy"):
        cluster.await_available(namespace)
    yield
    for namespace in ("finance", "legacy"):
        cluster.delete(Namespace, namespace)
    for name in DEFINITIONS:
        if find(cluster.client, CustomResourceDefinition, name):
            cluster.delete(CustomResourceDefinition, name)


@pytest.mark.timeout(600)  # all of the page
def test_the_page_is_followed_with_kubectl_from_the_check_to_the_end(cluster: RealCluster) -> None:
    person = Person(cluster)
    friend, stranger = cluster.pod("finance", "friend"), cluster.pod("legacy", "stranger")
    eventually(lambda: answers(cluster, "legacy", stranger), what="the service")
    person.follow("Check")
    person.follow("Install")
    person.follow("Put a namespace into the mesh")
    assert answers(cluster, "finance", friend)
    assert answers(cluster, "legacy", stranger)
    person.follow("Lock it down")
    person.follow("Ask why")
    assert not answers(cluster, "legacy", stranger)
    assert answers(cluster, "finance", friend)
    person.type("kubectl troth status")
    old = person.root()
    with Load(cluster, "finance", friend, URL, program=LOAD):
        person.follow("Replace the root")
    assert person.root() != old
    person.follow("Remove")
    assert answers(cluster, "legacy", stranger)
    assert answers(cluster, "finance", friend)
    cluster.await_gone(Namespace, "troth-system")
    assert find(cluster.client, CustomResourceDefinition, DEFINITIONS[0]) is not None


def answers(cluster: RealCluster, namespace: str, pod: str) -> bool:
    """Whether a pod gets an answer in plaintext, as far as it knows."""
    return cluster.fetch(namespace, pod, f"http://{URL}/") == "web 8080 /"
