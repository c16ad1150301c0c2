"""The configuration of one Envoy as a value.

`Edits` changes it part by part; a part is what was built from one object.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import msgspec
from google.protobuf import any_pb2

from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.envoy.resources import Message

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = _PREFIX + "envoy.service.runtime.v3.Runtime"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"

_VERSION_DIGITS = 32  # 128 bits of the hash


class XdsResource(msgspec.Struct, frozen=True, kw_only=True):
    """One named xDS resource.

    Attributes:
        name: Its name in Envoy.
        version: A hash of its content only. With counters, a restarted server would not push a
            changed policy if the old and the new number happened to be equal.
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
        # Without the body: a secret's contains a private key.
        return f"Resource({self.type_url.rpartition('.')[2]} {self.name!r} {self.version})"


class Snapshot(msgspec.Struct, frozen=True):
    """All of Envoy's resources, by type URL, then by name."""

    types: Mapping[str, Mapping[str, XdsResource]] = {}

    @classmethod
    def of(cls, resources: Iterable[XdsResource]) -> Self:
        """Collect resources of any types.

        Raises:
            ValueError: Two of one type have the same name.
        """
        types: defaultdict[str, dict[str, XdsResource]] = defaultdict(dict)
        for resource in resources:
            if resource.name in types[resource.type_url]:
                raise ValueError(f"two of {resource!r}")
            types[resource.type_url][resource.name] = resource
        return cls(dict(types))

    def of_type(self, type_url: str) -> Mapping[str, XdsResource]:
        """The resources of one type by name; empty if there are none."""
        return self.types.get(type_url, {})


class Edits:
    """Collects changes, and makes the next snapshot from them and the last one."""

    def __init__(self) -> None:
        self._tables: dict[str, Table[XdsResource]] = {}
        self._parts: dict[str, tuple[XdsResource, ...]] = {}
        self._edited: dict[str, tuple[XdsResource, ...]] = {}

    def put(self, part: str, *messages: Message) -> None:
        """Set a part's resources to ``messages``; none removes it."""
        self._edited[part] = tuple(XdsResource.of(message.name, message) for message in messages)

    def snapshot(self) -> Snapshot:
        """The snapshot with all changes.

        Raises:
            ValueError: Two resources of one type have the same name.
        """
        removed: defaultdict[str, set[str]] = defaultdict(set)
        upserted: defaultdict[str, dict[str, XdsResource]] = defaultdict(dict)
        for part, resources in self._edited.items():
            for each in self._parts.pop(part, ()):
                removed[each.type_url].add(each.name)
            if resources:
                self._parts[part] = resources
        for resource in (each for resources in self._edited.values() for each in resources):
            name, type_url = resource.name, resource.type_url
            former = self._tables.get(type_url, Table()).get(name)
            if name in upserted[type_url] or not (former is None or name in removed[type_url]):
                raise ValueError(f"two of {resource!r}")
            # Keep the object of an unchanged resource.
            same = former is not None and former.version == resource.version
            upserted[type_url][name] = former if former is not None and same else resource
        self._edited.clear()
        for type_url in removed.keys() | upserted.keys():
            self._change(type_url, upserted[type_url], removed[type_url])
        return Snapshot({type_url: table for type_url, table in self._tables.items() if table})

    def _change(
        self, type_url: str, upserted: Mapping[str, XdsResource], removed: set[str]
    ) -> None:
        table = self._tables.get(type_url, Table[XdsResource]())
        changed = {name: each for name, each in upserted.items() if table.get(name) is not each}
        self._tables[type_url] = table.changed(changed, removed - upserted.keys())
