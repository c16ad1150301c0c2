"""Kubernetes objects for the policy tests, as small as they can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.e2e.client import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Object = dict[str, Any]


def document(objects: Iterable[Object]) -> str:
    """A manifest file; JSON is YAML, too."""
    return "\n---\n".join(json.dumps(each, indent=1) for each in objects) + "\n"


def namespace(name: str, *, mesh: bool) -> Object:
    labels = {"troth.dev/mesh": "enabled"} if mesh else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def server(
    name: str,
    *listeners: str,
    labels: Mapping[str, str] | None = None,
    account: str = "",
) -> list[Object]:
    """A pod ``NAMESPACE/NAME`` that runs `programs/hello.py`, its account and its labels.

    Args:
        name: The pod's; its label ``app`` too.
        listeners: ``http:8080``, ``echo:7000``, ``udp:5300``; without any it only sleeps.
        labels: More of them.
        account: The service account; the pod's name if empty.
    """
    space, _, own = name.partition("/")
    metadata = {"namespace": space, "name": own, "labels": {"app": own, **(labels or {})}}
    ports = []
    for listener in listeners:
        protocol, _, port = listener.partition(":")
        transport = "UDP" if protocol == "udp" else "TCP"
        ports.append(
            {"name": f"{protocol}-{port}", "containerPort": int(port), "protocol": transport}
        )
    container: Object = {
        "name": own,
        "image": "hello",
        "command": ["python3", "-I", str(PROGRAMS / "hello.py")],
        "args": [own, *listeners],
        "ports": ports,
    }
    if first := next((p for p in ports if p["protocol"] == "TCP"), None):
        container["readinessProbe"] = {
            "tcpSocket": {"port": first["containerPort"]},
            "periodSeconds": 1,
        }
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": space, "name": account or own},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"serviceAccountName": account or own, "containers": [container]},
        },
    ]


def service(name: str, *ports: tuple[int, int | str] | int, protocol: str = "TCP") -> Object:
    """A dual-stack Service for the pods labelled ``app: NAME``; ports may have a target."""
    space, _, own = name.partition("/")
    pairs = [port if isinstance(port, tuple) else (port, port) for port in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": space, "name": own},
        "spec": {
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"app": own},
            "ports": [
                {"name": f"p{port}", "port": port, "targetPort": target, "protocol": protocol}
                for port, target in pairs
            ],
        },
    }


def policy(
    name: str,
    mode: str | None,
    *,
    selector: Mapping[str, str] | None = None,
    ports: Mapping[int, str] | None = None,
) -> Object:
    """A PeerAuthentication ``NAMESPACE/NAME``."""
    space, _, own = name.partition("/")
    spec: Object = {}
    if mode is not None:
        spec["mtls"] = {"mode": mode}
    if selector is not None:
        spec["selector"] = {"matchLabels": dict(selector)}
    if ports is not None:
        spec["portLevelMtls"] = {str(port): {"mode": each} for port, each in ports.items()}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": space, "name": own},
        "spec": spec,
    }
