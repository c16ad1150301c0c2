"""Kubernetes objects as dictionaries, to and from an API server."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import yaml
from lightkube import ApiError
from lightkube.codecs import resource_registry
from lightkube.generic_resource import create_namespaced_resource

if TYPE_CHECKING:
    from lightkube import Client

PeerAuthentication = create_namespaced_resource(
    "security.istio.io", "v1", "PeerAuthentication", "peerauthentications"
)
PeerAuthenticationV1Beta1 = create_namespaced_resource(
    "security.istio.io", "v1beta1", "PeerAuthentication", "peerauthentications"
)


def parse(manifests: str | dict[str, Any]) -> list[dict[str, Any]]:
    """The objects in YAML manifests, or the one object given."""
    if isinstance(manifests, dict):
        return [manifests]
    return [document for document in yaml.safe_load_all(manifests) if document]


def apply(client: Client, manifests: str | dict[str, Any]) -> None:
    """Apply manifests as `kubectl apply --server-side --force-conflicts` does."""
    for document in parse(manifests):
        resource: Any = resource_registry.load(document["apiVersion"], document["kind"])
        client.apply(resource.from_dict(document), force=True)


def find(
    client: Client, kind: Any, name: str, namespace: str | None = None
) -> dict[str, Any] | None:
    """An object, or None when there is none."""
    options = {"namespace": namespace} if namespace else {}
    try:
        found: dict[str, Any] = client.get(kind, name, **options).to_dict()
    except ApiError as error:
        if error.status.code == HTTPStatus.NOT_FOUND:
            return None
        raise
    return found
