"""The kinds of object that troth reads from manifests, and where each one goes.

To read another kind is to add a row here, and its collection to ``Manifests``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from troth.manifests import custom, endpoints, entrances, objects, pods, services
from troth.syntax import NAME, Rule

if TYPE_CHECKING:
    from collections.abc import Callable


class KindReader(NamedTuple):
    """How one kind is read.

    Attributes:
        group: Its API group, empty for the core.
        versions: The versions understood.
        collection: The field of ``Manifests`` its objects go to.
        parse: Makes the typed object; problems go to the source's report.
        namespaced: Whether its objects live in a namespace.
        name: What its objects may be called.
        checks_metadata: Whether ``parse`` says itself what is wrong with name and namespace.
    """

    group: str
    versions: tuple[str, ...]
    collection: str
    parse: Callable[[objects.Source], object]
    namespaced: bool = True
    name: Rule = NAME
    checks_metadata: bool = False

    @property
    def api_versions(self) -> tuple[str, ...]:
        """As ``apiVersion`` has them."""
        prefix = f"{self.group}/" if self.group else ""
        return tuple(f"{prefix}{version}" for version in self.versions)


KINDS = {
    "Namespace": KindReader("", ("v1",), "namespaces", objects.parse_namespace, namespaced=False),
    "ServiceAccount": KindReader("", ("v1",), "service_accounts", objects.parse_service_account),
    "Service": KindReader("", ("v1",), "services", services.parse_service),
    "EndpointSlice": KindReader(
        "discovery.k8s.io", ("v1",), "endpoint_slices", endpoints.parse_endpoint_slice
    ),
    "Endpoints": KindReader("", ("v1",), "endpoints", endpoints.parse_endpoints),
    "ConfigMap": KindReader("", ("v1",), "config_maps", objects.parse_config_map),
    "Secret": KindReader("", ("v1",), "secrets", objects.parse_secret),
    "Pod": KindReader("", ("v1",), "pods", pods.parse_pod),
    "Deployment": KindReader("apps", ("v1",), "deployments", pods.parse_deployment),
    "StatefulSet": KindReader("apps", ("v1",), "workloads", pods.parse_workload),
    "DaemonSet": KindReader("apps", ("v1",), "workloads", pods.parse_workload),
    "ReplicaSet": KindReader("apps", ("v1",), "workloads", pods.parse_workload),
    "Job": KindReader("batch", ("v1",), "workloads", pods.parse_workload),
    "CronJob": KindReader("batch", ("v1",), "workloads", pods.parse_workload),
    "PeerAuthentication": KindReader(
        "security.istio.io",
        ("v1", "v1beta1"),
        "policies",
        objects.parse_policy,
        checks_metadata=True,
    ),
}

_CUSTOM = KindReader("", (), "custom_workloads", custom.parse_custom)

_OTHER_NAME = Rule(
    pattern=re.compile(r"[-.:a-zA-Z0-9]+"),
    longest=253,
    wanted="use letters, digits, '-', '.' and ':'",
)
"""An APIService is called ``v1.``, for one."""
_ENTRANCES = {
    kind: KindReader(
        row.group,
        (),
        "entrances",
        entrances.parse_entrance,
        namespaced=row.namespaced,
        name=_OTHER_NAME,
    )
    for kind, row in entrances.ENTRANCES.items()
}

COLLECTIONS = {row.collection for row in (*KINDS.values(), _CUSTOM)} | {"entrances"}
"""The fields of ``Manifests`` that hold objects."""


def row_of(kind: str) -> KindReader:
    """How a kind is read, also one that is called ``KIND.GROUP``."""
    return KINDS.get(kind) or _ENTRANCES.get(kind, _CUSTOM)
