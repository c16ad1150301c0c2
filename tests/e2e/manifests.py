"""Kubernetes objects for the policy tests, as small as they can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.e2e.client import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Object = dict[str, Any]


def document(objects: Iterable[Object]) -> str:
    """A manifest file; JSON is YAML, too."""
    return "\n---\n".join(json.dumps(each, indent=1) for each in objects) + "\n"


def namespace(name: str, *, mesh: bool) -> Object:
    labels = {"troth.dev/mesh": "enabled"} if mesh else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def server(
    name: str, *listeners: str, labels: Mapping[str, str] | None = None, version: str = "1"
) -> list[Object]:
    """A pod ``NAMESPACE/NAME`` that runs `programs/hello.py`, and its service account.

    Args:
        name: The pod's and the account's; its label ``app`` too.
        listeners: ``http:8080``, ``echo:7000``, ``udp:5300``; without any it only sleeps.
        labels: More of them.
        version: What makes it another pod when changed.
    """
    metadata, spec = _template(name, listeners, labels or {}, version)
    return [
        _account(name),
        {"apiVersion": "v1", "kind": "Pod", "metadata": _named(name) | metadata, "spec": spec},
    ]


def deployment(name: str, *listeners: str, replicas: int = 1, version: str = "1") -> list[Object]:
    """A Deployment ``NAMESPACE/NAME`` of such pods, and their service account."""
    metadata, spec = _template(name, listeners, {}, version)
    return [
        _account(name),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _named(name),
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": metadata["labels"]},
                "template": {"metadata": metadata, "spec": spec},
            },
        },
    ]


def service(name: str, *ports: tuple[int, int | str] | int, protocol: str = "TCP") -> Object:
    """A dual-stack Service for the pods labelled ``app: NAME``; ports may have a target."""
    pairs = [port if isinstance(port, tuple) else (port, port) for port in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(name),
        "spec": {
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"app": _named(name)["name"]},
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
        "metadata": _named(name),
        "spec": spec,
    }


def _named(name: str) -> Object:
    space, _, own = name.partition("/")
    return {"namespace": space, "name": own}


def _account(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(name)}


def _template(
    name: str, listeners: Sequence[str], labels: Mapping[str, str], version: str
) -> tuple[Object, Object]:
    """The metadata and spec of a pod."""
    own = _named(name)["name"]
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
        "env": [{"name": "VERSION", "value": version}],
        "ports": ports,
    }
    if first := next((p for p in ports if p["protocol"] == "TCP"), None):
        container["readinessProbe"] = {
            "tcpSocket": {"port": first["containerPort"]},
            "periodSeconds": 1,
        }
    return {"labels": {"app": own, **labels}}, {
        "serviceAccountName": own,
        "containers": [container],
    }
