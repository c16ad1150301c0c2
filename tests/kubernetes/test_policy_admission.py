"""deploy/optional/policy-admission.yaml where the definition of policies has no schema."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.deploy.chart import OPTIONAL
from tests.e2e.harness import eventually
from tests.rig.harness import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SELECTOR = {"selector": {"matchLabels": {"app": "web"}}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=()) as cluster:
        schemas = [f"/spec/versions/{number}/schema/openAPIV3Schema" for number in range(2)]
        patch = [{"op": "replace", "path": path, "value": ANYTHING} for path in schemas]
        cluster.kubectl(
            *("patch", "crd", "peerauthentications.security.istio.io", "--type=json"),
            f"--patch={json.dumps(patch)}",
        )
        for namespace in ("shop", "istio-system"):
            cluster.namespace(namespace)
        cluster.kubectl("apply", "-f", str(OPTIONAL / "policy-admission.yaml"))
        # Policies of admission take effect by and by.
        eventually(lambda: "mode" in said_to(cluster, {"mtls": {"mode": "strict"}}), what="effect")
        eventually(lambda: "Warning" in said_to(cluster, {"selector": {}}), what="warnings")
        yield cluster


def said_to(cluster: Cluster, spec: dict[str, Any], *, namespace: str = "shop") -> str:
    """What kubectl says to a policy that is created but not stored."""
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": f"p{time.monotonic_ns()}", "namespace": namespace},
        "spec": spec,
    }
    plane = cluster.control_plane
    done = plane.machine.run(
        *(str(plane.binaries / "kubectl"), f"--kubeconfig={plane.kubeconfig()}"),
        *("create", "--dry-run=server", "-f", "-"),
        input=json.dumps(policy),
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"mtls": {"mode": "STRIKT"}}, "spec.mtls.mode: write STRICT"),
        (SELECTOR | {"portLevelMtls": {"80": {"mode": "on"}}}, "spec.portLevelMtls: every mode"),
        (SELECTOR | {"portLevelMtls": {"http": {}}}, "spec.portLevelMtls: every port"),
        (SELECTOR | {"portLevelMtls": {"65536": {}}}, "spec.portLevelMtls: every port"),
        ({"portLevelMtls": {"80": {"mode": "STRICT"}}}, "stands without selector labels"),
        ({"selector": {"matchLabels": {"a*": "b"}}}, "a key is no label's key"),
        ({"selector": {"matchLabels": {"a": "b*"}}}, "a value is no label's value"),
    ],
)
def test_a_bad_policy_is_refused_with_its_field(
    cluster: Cluster, spec: dict[str, Any], words: str
) -> None:
    said = said_to(cluster, spec)
    assert words in said
    assert "created" not in said


@pytest.mark.parametrize(
    ("namespace", "spec", "words"),
    [
        ("shop", {"selector": {}}, "spec.selector: is empty"),
        ("istio-system", SELECTOR, "holds for no workload"),
    ],
)
def test_a_policy_that_is_hardly_meant_is_stored_with_a_warning(
    cluster: Cluster, namespace: str, spec: dict[str, Any], words: str
) -> None:
    said = said_to(cluster, spec, namespace=namespace)
    assert words in said
    assert "created" in said


@pytest.mark.parametrize(
    ("namespace", "spec"),
    [
        ("shop", {}),
        ("shop", {"mtls": {"mode": "STRICT"}}),
        ("istio-system", {"mtls": {}}),
        ("shop", SELECTOR | {"portLevelMtls": {"8080": {"mode": "DISABLE"}, "1": {}}}),
        ("shop", {"selector": {"matchLabels": {"example.org/a_b": "x.y-z", "empty": ""}}}),
    ],
)
def test_a_good_policy_is_taken_without_a_word(
    cluster: Cluster, namespace: str, spec: dict[str, Any]
) -> None:
    said = said_to(cluster, spec, namespace=namespace)
    assert "created" in said
    assert "Warning" not in said
