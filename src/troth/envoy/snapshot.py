"""What one Envoy shall be configured with, as a value."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import msgspec
from google.protobuf import any_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = _PREFIX + "envoy.service.runtime.v3.Runtime"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"

_VERSION_DIGITS = 32  # 128 bits of the hash


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One named xDS resource.

    Attributes:
        name: What Envoy knows it by.
        version: A hash of its content and nothing else. With counters, a restarted server whose
            policy had changed would push nothing where old and new numbers happen to match.
        body: The resource itself.
    """

    name: str
    version: str
    body: any_pb2.Any

    @classmethod
    def of(cls, name: str, message: Any) -> Self:
        """Wrap a protobuf message."""
        body = any_pb2.Any()
        body.Pack(message, deterministic=True)
        digest = hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()
        return cls(name=name, version=digest[:_VERSION_DIGITS], body=body)

    @property
    def type_url(self) -> str:
        """Its xDS type."""
        return str(self.body.type_url)

    def __repr__(self) -> str:
        # Without the body: a secret's has a private key in it.
        return f"Resource({self.type_url.rpartition('.')[2]} {self.name!r} {self.version})"


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that Envoy shall have: type URL, then name, to resource."""

    types: Mapping[str, Mapping[str, Resource]] = {}

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Self:
        """Collect resources of any types.

        Raises:
            ValueError: Two of one type have the same name.
        """
        types: defaultdict[str, dict[str, Resource]] = defaultdict(dict)
        for resource in resources:
            if resource.name in types[resource.type_url]:
                raise ValueError(f"two of {resource!r}")
            types[resource.type_url][resource.name] = resource
        return cls(dict(types))

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of one type by name; empty if there are none."""
        return self.types.get(type_url, {})
