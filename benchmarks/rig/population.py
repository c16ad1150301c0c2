"""A big mesh in a real API server: pods that only the API knows, on nodes that are not there.

The API server takes a minute to make as many pods. So it makes one, and the others are written into
its etcd beside that, as copies with names and addresses of their own: to whoever lists and watches
pods it is the same.
"""

from __future__ import annotations

import copy
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
from lightkube.models.core_v1 import PodStatus
from lightkube.resources.core_v1 import Pod
from tests.rig import objects

from benchmarks.rig.etcd import Etcd
from troth.mesh.model import CAPTURED_ANNOTATION, MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import Client
    from tests.rig.controlplane import ControlPlane

_AT_ONCE = 8
_PODS_PER_NODE = 50
_PER_NAMESPACE = 10  # service accounts


CHANGING = range(1, 101)
"""Numbers of the pods that change when there is load."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How big a mesh is.

    Attributes:
        accounts: Service accounts, ten to a namespace.
        services: Services; each selects pods of one account, and each pod is in one service.
        pods: Pods on other nodes, all captured.
    """

    accounts: int = 200
    services: int = 500
    pods: int = 5_000

    @property
    def namespaces(self) -> list[str]:
        """The names of its namespaces."""
        return [f"bench-{number}" for number in range(-(-self.accounts // _PER_NAMESPACE))]

    def account(self, number: int) -> tuple[str, str]:
        """Namespace and name of an account; numbers above the last one begin anew."""
        number %= self.accounts
        return f"bench-{number // _PER_NAMESPACE}", f"account-{number % _PER_NAMESPACE}"


def changing_uids() -> list[str]:
    """The UIDs of the pods `CHANGING`."""
    return [_uid(number) for number in CHANGING]


def _uid(number: int) -> str:
    return str(uuid.UUID(int=number, version=4))


def populate(plane: ControlPlane, size: Size, tell: Callable[[str], None]) -> None:
    """Put a mesh into a cluster's API server.

    Args:
        plane: The cluster's.
        size: Of the mesh.
        tell: Hears what is being made.
    """
    tell("making namespaces, accounts and nodes")
    _apply_all(
        plane,
        [_object("Namespace", name, labels={MESH_LABEL: "enabled"}) for name in size.namespaces],
    )
    accounts = (size.account(number) for number in range(size.accounts))
    nodes = range(-(-size.pods // _PODS_PER_NODE))
    _apply_all(
        plane,
        [
            *(_object("ServiceAccount", name, namespace=namespace) for namespace, name in accounts),
            *(_object("Node", f"remote-{number}") for number in nodes),
        ],
    )
    tell(f"making {size.pods:,} pods")
    _clone_pods(plane, size)
    tell(f"making {size.services:,} services")
    _apply_all(plane, [_service(size, number) for number in range(size.services)])


def _apply_all(plane: ControlPlane, objects_: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(plane.apply, objects_))


def _clone_pods(plane: ControlPlane, size: Size) -> None:
    first = _make_pod(plane.client, size)
    with Etcd(plane.machine.netns) as etcd:
        etcd.put(
            (
                f"/registry/pods/{pod['metadata']['namespace']}/{pod['metadata']['name']}",
                msgspec.json.encode(pod),
            )
            for pod in (_clone(first, size, number) for number in range(1, size.pods))
        )


def _make_pod(client: Client, size: Size) -> dict[str, Any]:
    """A pod that is ready and captured on another node, as the API server has it."""
    manifest = pod_manifest(size, 0)
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    client.create(msgspec.convert(manifest, Pod))
    status = msgspec.convert(_status(0), PodStatus)
    client.patch(Pod.Status, name, Pod.Status(status=status), namespace=namespace)
    pod = objects.find(client, Pod, name, namespace)
    if pod is None:
        raise LookupError(f"{namespace}/{name} has gone")
    return pod


def _clone(first: dict[str, Any], size: Size, number: int) -> dict[str, Any]:
    manifest = pod_manifest(size, number)
    pod = copy.deepcopy(first)
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] |= manifest["metadata"] | {"uid": _uid(number)}
    del pod["metadata"]["resourceVersion"]
    pod["spec"] |= {key: manifest["spec"][key] for key in ("nodeName", "serviceAccountName")}
    pod["status"] |= _status(number)
    return pod


def pod_manifest(size: Size, number: int) -> dict[str, Any]:
    """A pod with what is usual in one: a node agent has all of it to read.

    Those behind a service are replicas, as of one Deployment.
    """
    service = number % size.services
    namespace, account = size.account(service)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": f"{account}-{number}",
            "labels": {
                "app": f"app-{service}",
                "app.kubernetes.io/name": account,
                "app.kubernetes.io/part-of": namespace,
                "pod-template-hash": f"{service * 7919 % 65536:x}",
            },
            "annotations": {
                CAPTURED_ANNOTATION: "true",
                "prometheus.io/scrape": "true",
                "checksum/config": "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded",
            },
        },
        "spec": {
            "nodeName": f"remote-{number // _PODS_PER_NODE}",
            "serviceAccountName": account,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "app",
                    "image": "registry.example/shop/app:1.2.3",
                    "ports": [
                        {"name": "http", "containerPort": 8080},
                        {"name": "metrics", "containerPort": 9090},
                    ],
                    "env": [{"name": f"SETTING_{n}", "value": f"value-{n}"} for n in range(10)],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"memory": "256Mi"},
                    },
                    "readinessProbe": {"httpGet": {"port": 8080, "path": "/ready"}},
                    "livenessProbe": {"httpGet": {"port": 8080, "path": "/live"}},
                }
            ],
        },
    }


def _status(number: int) -> dict[str, Any]:
    high, low = divmod(number, 250)
    ips = [f"10.{200 + high // 250}.{high % 250}.{low + 1}", f"fd00:200::{number + 1:x}"]
    times = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {
        "phase": "Running",
        "podIP": ips[0],
        "podIPs": [{"ip": ip} for ip in ips],
        "hostIP": f"172.31.0.{number // _PODS_PER_NODE % 250 + 1}",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [
            {"type": kind, "status": "True", **times}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {
                "name": "app",
                "ready": True,
                "restartCount": 0,
                "image": "registry.example/shop/app:1.2.3",
                "imageID": f"registry.example/shop/app@sha256:{number:064x}",
                "containerID": f"containerd://{number:064x}",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }
        ],
    }


def _object(kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **metadata}}


def _service(size: Size, number: int) -> dict[str, Any]:
    namespace, account = size.account(number)
    return {
        **_object("Service", f"{account}-{number}", namespace=namespace),
        "spec": {
            "selector": {"app": f"app-{number}"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }
