"""The kinds of object that troth reads from manifests, and where each one goes.

To read another kind is to add a row here, and its collection to ``Manifests``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from troth.sources import _custom, _endpoints, _entrances, _objects, _pods, _services

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """How one kind is read.

    Attributes:
        group: Its API group, empty for the core.
        versions: The versions understood.
        collection: The field of ``Manifests`` its objects go to.
        parse: Makes the typed object; problems go to the source's report.
        namespaced: Whether its objects live in a namespace.
        checks_metadata: Whether ``parse`` says itself what is wrong with name and namespace.
    """

    group: str
    versions: tuple[str, ...]
    collection: str
    parse: Callable[[_objects.Source], object]
    namespaced: bool = True
    checks_metadata: bool = False

    @property
    def api_versions(self) -> tuple[str, ...]:
        """As ``apiVersion`` has them."""
        prefix = f"{self.group}/" if self.group else ""
        return tuple(f"{prefix}{version}" for version in self.versions)


KINDS = {
    "Namespace": Kind("", ("v1",), "namespaces", _objects.parse_namespace, namespaced=False),
    "ServiceAccount": Kind("", ("v1",), "service_accounts", _objects.parse_service_account),
    "Service": Kind("", ("v1",), "services", _services.parse_service),
    "EndpointSlice": Kind(
        "discovery.k8s.io", ("v1",), "endpoint_slices", _endpoints.parse_endpoint_slice
    ),
    "Endpoints": Kind("", ("v1",), "endpoints", _endpoints.parse_endpoints),
    "ConfigMap": Kind("", ("v1",), "config_maps", _objects.parse_config_map),
    "Secret": Kind("", ("v1",), "secrets", _objects.parse_secret),
    "Pod": Kind("", ("v1",), "pods", _pods.parse_pod),
    "Deployment": Kind("apps", ("v1",), "deployments", _pods.parse_deployment),
    "StatefulSet": Kind("apps", ("v1",), "workloads", _pods.parse_workload),
    "DaemonSet": Kind("apps", ("v1",), "workloads", _pods.parse_workload),
    "ReplicaSet": Kind("apps", ("v1",), "workloads", _pods.parse_workload),
    "Job": Kind("batch", ("v1",), "workloads", _pods.parse_workload),
    "CronJob": Kind("batch", ("v1",), "workloads", _pods.parse_workload),
    "PeerAuthentication": Kind(
        "security.istio.io",
        ("v1", "v1beta1"),
        "policies",
        _objects.parse_policy,
        checks_metadata=True,
    ),
}

_CUSTOM = Kind("", (), "custom_workloads", _custom.parse_custom)

_ENTRANCES = {
    kind: Kind(
        row.group,
        (),
        "entrances",
        _entrances.parse_entrance,
        namespaced=row.namespaced,
    )
    for kind, row in _entrances.ENTRANCES.items()
}

COLLECTIONS = {row.collection for row in (*KINDS.values(), _CUSTOM)} | {"entrances"}
"""The fields of ``Manifests`` that hold objects."""


def row_of(kind: str) -> Kind:
    """How a kind is read, also one that is called ``KIND.GROUP``."""
    return KINDS.get(kind) or _ENTRANCES.get(kind, _CUSTOM)
