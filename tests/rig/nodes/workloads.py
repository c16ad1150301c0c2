"""Objects that run the images of real nodes, as somebody would write them."""

from __future__ import annotations

from typing import Any

from tests.rig.nodes import images


def container(*command: str, **more: Any) -> dict[str, Any]:
    """A container of the app's image."""
    return {"name": "app", "image": images.APP, "command": [*command], **more}


def template(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod without a name, with the label ``app``, that ends quickly."""
    spec = {"terminationGracePeriodSeconds": 1, "containers": [*containers], **spec}
    return {"metadata": {"labels": {"app": name}}, "spec": spec}


def pod(namespace: str, name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod, with its name as the label ``app``."""
    made = template(name, *containers, **spec)
    made["metadata"] |= {"namespace": namespace, "name": name}
    return {"apiVersion": "v1", "kind": "Pod", **made}


def workload(
    kind: str, namespace: str, name: str, pods: dict[str, Any], **spec: Any
) -> dict[str, Any]:
    """A Deployment, StatefulSet or DaemonSet of a template."""
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": pods, **spec},
    }


def service(namespace: str, name: str, *ports: int, **spec: Any) -> dict[str, Any]:
    """A Service of the pods with the label; on port 8080 if none is named."""
    numbers = [{"name": f"port-{port}", "port": port} for port in ports or (8080,)]
    spec = {"selector": {"app": name}, "ports": numbers, **spec}
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def job(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A Job or CronJob."""
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": spec}


def strict(namespace: str, name: str = "strict", **spec: Any) -> dict[str, Any]:
    """A policy that requires mutual TLS in a namespace, or otherwise by its own words."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"mtls": {"mode": "STRICT"}, **spec},
    }


def spread(app: str, *, always: bool = True) -> dict[str, Any]:
    """A constraint that spreads the pods with the label over the nodes.

    Args:
        app: The label's value.
        always: Whether a pod rather waits for a node than go where there are more.
    """
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule" if always else "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": app}},
    }
