"""Objects beside pods and Services: ConfigMap, Secret, ServiceAccount, Namespace, and a policy."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from troth.manifests.reader import Fields, Report
from troth.manifests.workloads import ConfigMap, Secret, ServiceAccount
from troth.mesh.model import Namespace
from troth.policy.parse import parse_peer_authentication
from troth.syntax import Rule, described, key_path

if TYPE_CHECKING:
    from troth.errors import Location
    from troth.manifests.yaml import Document
    from troth.policy.model import PeerAuthentication

_DATA_KEY = Rule(
    pattern=re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]+"),
    longest=253,
    wanted="use a-z, A-Z, 0-9, '-', '_' and '.', and don't begin with '..'",
)


class Source:
    """One object of a known kind, about to be parsed.

    Attributes:
        document: Where it stands.
        kind: Its kind.
        namespace: Its namespace, ``default`` when it names none.
        name: Its name.
        report: Where its problems go.
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
    policy, problems = parse_peer_authentication(
        source.document.value, location=source.location, stored=source.stored
    )
    for problem in problems:
        source.report.add(problem)
    return policy


def parse_namespace(source: Source) -> Namespace:
    """A v1 Namespace."""
    labels = source.top.fields("metadata").labels("labels")
    return Namespace(name=source.name, labels=labels)


def parse_service_account(source: Source) -> ServiceAccount:
    """A v1 ServiceAccount."""
    return ServiceAccount(namespace=source.namespace, name=source.name, location=source.location)


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
        except (binascii.Error, ValueError):  # not shown: it may be the secret itself
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
