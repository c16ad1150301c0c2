"""Pods that can't be captured, or can't be marked, on a real API server: who hears of them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from lightkube import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.policy_v1 import PodDisruptionBudgetSpec
from lightkube.resources.core_v1 import Event, Pod
from lightkube.resources.policy_v1 import PodDisruptionBudget
from tests.e2e.harness import eventually
from tests.rig.mesh import SERVER, ClusterMesh
from tests.rig.objects import PeerAuthentication, find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.harness import Cluster

pytestmark = pytest.mark.cluster

_NO_MARKS = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-marks}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
    resourceRules:
      - {apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [pods]}
  validations:
    - expression: object.metadata.?annotations == oldObject.metadata.?annotations
      message: no annotations here
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-marks}
spec: {policyName: no-marks, validationActions: [Deny]}
"""


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster, uncaptured="evict") as running:
        yield running


def squat(mesh: ClusterMesh, namespace: str, name: str) -> None:
    """Run a pod whose app has a port that its Envoy needs."""
    container = {
        "command": [sys.executable, SERVER, name, "http:8080", "http:15007"],
        "readinessProbe": {"httpGet": {"port": 8080}, "failureThreshold": 1},
    }
    mesh.run(namespace, name, "node-1", container)


def enforced(mesh: ClusterMesh, namespace: str) -> dict[str, Any]:
    policy = find(mesh.cluster.client, PeerAuthentication, "default", namespace) or {}
    conditions = policy.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Enforced"), {})


def events(mesh: ClusterMesh, namespace: str, pod: str) -> dict[str, str]:
    """The messages of the Events on a pod, by their reasons."""
    return {
        str(each.reason): str(each.message)
        for each in mesh.cluster.client.list(Event, namespace=namespace)
        if each.involvedObject.name == pod
    }


def may_not_annotate(mesh: ClusterMesh, namespace: str, pod: str) -> bool:
    change = {"metadata": {"annotations": {"tried": str(time.monotonic())}}}
    try:
        mesh.cluster.client.patch(Pod, pod, change, namespace=namespace)
    except ApiError as error:
        return "no annotations here" in str(error)
    return False


def test_a_pod_that_cannot_be_captured_is_in_the_status_of_its_policy_and_evicted_as_pdbs_allow(
    mesh: ClusterMesh,
) -> None:
    namespace = mesh.namespace("squatted", in_mesh=False)
    client = mesh.cluster.client
    mesh.policy(namespace, "STRICT")
    mesh.serve(namespace, "web", "node-1")
    squat(mesh, namespace, "squatter")
    eventually(lambda: enforced(mesh, namespace).get("status") == "True", what="Enforced")
    budget = PodDisruptionBudget(
        metadata=ObjectMeta(name="keep", namespace=namespace),
        spec=PodDisruptionBudgetSpec(
            minAvailable=1,
            selector={"matchLabels": {"app": "squatter"}},  # type: ignore[arg-type]  # as JSON
        ),
    )
    client.create(budget)
    mesh.label(namespace, in_mesh=True)

    eventually(lambda: enforced(mesh, namespace).get("status") == "False", what="not Enforced")
    message = enforced(mesh, namespace)["message"]
    assert f"not captured: pod {namespace}/squatter (Envoy" in message
    assert f"{namespace}/web" not in message
    assert mesh.metrics("node-1")["troth_uncaptured_pods"] == 1
    eventually(lambda: "NotCaptured" in events(mesh, namespace, "squatter"), what="the Event")

    eventually(lambda: "EvictionRefused" in events(mesh, namespace, "squatter"), what="the PDB")
    told = events(mesh, namespace, "squatter")["EvictionRefused"]
    assert "may not be evicted now" in told
    client.delete(PodDisruptionBudget, "keep", namespace=namespace)
    eventually(lambda: "Evicted" in events(mesh, namespace, "squatter"), what="the eviction")
    eventually(lambda: find(client, Pod, "squatter", namespace) is None, what="the pod's end")
    eventually(lambda: enforced(mesh, namespace).get("status") == "True", what="Enforced again")
    assert find(client, Pod, "web", namespace) is not None


def test_a_pod_that_cannot_be_marked_is_held_to_the_policy_after_a_minute_and_named(
    mesh: ClusterMesh,
) -> None:
    namespace = mesh.namespace("unmarked", in_mesh=False)
    outside = mesh.namespace("unmarked-outside", in_mesh=False)
    pod = mesh.serve(namespace, "web", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.cluster.apply(_NO_MARKS.replace("NAMESPACE", namespace))
    try:
        eventually(
            lambda: may_not_annotate(mesh, namespace, "web"), what="the cluster's own policy"
        )
        mesh.policy(namespace, "STRICT")
        mesh.label(namespace, in_mesh=True)
        url = f"{pod['status']['podIP']}:8080"
        eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT")
        eventually(lambda: "NotMarked" in events(mesh, namespace, "web"), what="the Event")
        told = events(mesh, namespace, "web")["NotMarked"]
        assert "no annotations here" in told
        assert "let the annotations troth.dev/captured" in told

        def named() -> bool:
            now = enforced(mesh, namespace)
            words = f"clients can't be told of the capture of pod {namespace}/web"
            return now.get("status") == "True" and words in now["message"]

        eventually(named, what="Enforced, with the pod")
    finally:
        mesh.cluster.kubectl(
            "delete",
            "validatingadmissionpolicybinding,validatingadmissionpolicy",
            "no-marks",
        )


def test_rules_that_are_flushed_in_a_pod_are_told_by_an_event_on_it(mesh: ClusterMesh) -> None:
    namespace = mesh.namespace("flushed")
    mesh.serve(namespace, "web", "node-1")
    mesh.await_captured(namespace, "web")
    sandbox = mesh.cluster.worker(namespace, "web").sandbox
    assert sandbox is not None
    subprocess.run(["nsenter", f"--net={sandbox.netns}", "nft", "flush", "ruleset"], check=True)
    eventually(lambda: "CaptureRestored" in events(mesh, namespace, "web"), what="the Event")
    told = events(mesh, namespace, "web")["CaptureRestored"]
    assert "removed: table inet troth" in told
    assert mesh.redirects(namespace, "web")
