"""The kinds of object that troth reads from manifests: how each is read, and where it goes.

To read another kind, add a row to ``KINDS``, and its collection to ``Manifests``. Large kinds have
their own modules; the others are read here: ConfigMap, Secret, ServiceAccount, Namespace,
PersistentVolumeClaim, PeerAuthentication.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, NamedTuple

from troth.fields import Fields, Report
from troth.manifests import custom, endpoints, entrances, pods, services
from troth.manifests.workloads import ConfigMap, Secret, ServiceAccount, VolumeClaim
from troth.mesh.model import Namespace
from troth.policy.parse import read_peer_authentication
from troth.syntax import NAME, Rule, described, key_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.errors import Location
    from troth.manifests.yaml import Document
    from troth.policy.model import PeerAuthentication

_DATA_KEY = Rule(
    pattern=re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]+"),
    longest=253,
    wanted="use a-z, A-Z, 0-9, '-', '_' and '.', and don't begin with '..'",
)

_OTHER_NAME = Rule(
    pattern=re.compile(r"[-.:a-zA-Z0-9]+"),
    longest=253,
    wanted="use letters, digits, '-', '.' and ':'",
)
"""For example, an APIService can have the name ``v1.``."""


class Source:
    """One object of a known kind, to be parsed.

    Attributes:
        document: Its document.
        kind: Its kind.
        namespace: Its namespace, ``default`` if it names none.
        name: Its name.
        report: Collects its problems.
        stored: It is in a cluster already (see `troth.policy.parse.parse_peer_authentication`).
        top: Its fields.
    """

    def __init__(
        self,
        document: Document,
        *,
        kind: str,
        namespace: str,
        name: str,
        report: Report,
        stored: bool = False,
    ) -> None:
        self.document = document
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.report = report
        self.stored = stored
        self.top = Fields(document.value, "", report)

    @property
    def location(self) -> Location:
        """Where the object begins."""
        return self.document.location


def parse_policy(source: Source) -> PeerAuthentication | None:
    """A security.istio.io PeerAuthentication."""
    return read_peer_authentication(source.top, location=source.location, stored=source.stored)


def parse_namespace(source: Source) -> Namespace:
    """A v1 Namespace."""
    labels = source.top.fields("metadata").labels("labels")
    return Namespace(name=source.name, labels=labels)


def parse_service_account(source: Source) -> ServiceAccount:
    """A v1 ServiceAccount."""
    return ServiceAccount(namespace=source.namespace, name=source.name, location=source.location)


def parse_claim(source: Source) -> VolumeClaim:
    """A v1 PersistentVolumeClaim."""
    return VolumeClaim(namespace=source.namespace, name=source.name, location=source.location)


def parse_config_map(source: Source) -> ConfigMap:
    """A v1 ConfigMap."""
    data = source.top.string_map("data")
    binary = _decoded(source.top, "binaryData")
    _check_keys(source.top, "data", data)
    _check_keys(source.top, "binaryData", binary)
    for key in data.keys() & binary.keys():
        source.top.error("binaryData", f"has the key {described(key)} of data", "keep one of them")
    return ConfigMap(
        namespace=source.namespace,
        name=source.name,
        data=data,
        binary_data=binary,
        location=source.location,
    )


def parse_secret(source: Source) -> Secret:
    """A v1 Secret; ``stringData`` wins over ``data``."""
    data = _decoded(source.top, "data")
    texts = source.top.string_map("stringData", confidential=True)
    data |= {key: text.encode() for key, text in texts.items()}
    _check_keys(source.top, "data", data)
    return Secret(
        namespace=source.namespace,
        name=source.name,
        type=source.top.string("type", "Opaque"),
        data=data,
        location=source.location,
    )


def _decoded(fields: Fields, name: str) -> dict[str, bytes]:
    decoded = {}
    for key, text in fields.string_map(name, confidential=True).items():
        try:
            decoded[key] = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):  # not quoted: it may be the secret itself
            path = key_path(fields.at(name), key)
            wanted = (
                "encode the value, or write it to stringData" if name == "data" else "encode it"
            )
            fields.report.error(path, "is not base64", wanted)
    return decoded


def _check_keys(fields: Fields, name: str, data: dict[str, str] | dict[str, bytes]) -> None:
    for key in data:
        if flaw := _DATA_KEY.flaw(key):
            fields.error(name, f"has a key that {flaw[0]}", flaw[1])


class KindReader(NamedTuple):
    """How one kind is read.

    Attributes:
        group: Its API group, empty for the core.
        versions: The supported versions.
        collection: The field of ``Manifests`` for its objects.
        parse: Makes the typed object; problems go to the source's report.
        namespaced: Whether its objects are in a namespace.
        name: The syntax of its objects' names.
        checks_metadata: Whether ``parse`` itself validates name and namespace.
    """

    group: str
    versions: tuple[str, ...]
    collection: str
    parse: Callable[[Source], object]
    namespaced: bool = True
    name: Rule = NAME
    checks_metadata: bool = False

    @property
    def api_versions(self) -> tuple[str, ...]:
        """The values of ``apiVersion``."""
        prefix = f"{self.group}/" if self.group else ""
        return tuple(f"{prefix}{version}" for version in self.versions)


KINDS = {
    "Namespace": KindReader("", ("v1",), "namespaces", parse_namespace, namespaced=False),
    "ServiceAccount": KindReader("", ("v1",), "service_accounts", parse_service_account),
    "Service": KindReader("", ("v1",), "services", services.parse_service),
    "EndpointSlice": KindReader(
        "discovery.k8s.io", ("v1",), "endpoint_slices", endpoints.parse_endpoint_slice
    ),
    "Endpoints": KindReader("", ("v1",), "endpoints", endpoints.parse_endpoints),
    "ConfigMap": KindReader("", ("v1",), "config_maps", parse_config_map),
    "Secret": KindReader("", ("v1",), "secrets", parse_secret),
    "PersistentVolumeClaim": KindReader("", ("v1",), "claims", parse_claim),
    "Pod": KindReader("", ("v1",), "pods", pods.parse_pod),
    "ReplicationController": KindReader("", ("v1",), "workloads", pods.parse_workload),
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
        parse_policy,
        checks_metadata=True,
    ),
}

_CUSTOM = KindReader("", (), "custom_workloads", custom.parse_custom)

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
"""The fields of ``Manifests`` that contain objects."""


def row_of(kind: str) -> KindReader:
    """How a kind is read; ``KIND.GROUP`` works, too."""
    return KINDS.get(kind) or _ENTRANCES.get(kind, _CUSTOM)
