"""A snapshot that is changed part by part, a part being what was built from one thing."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from troth._table import Table
from troth.envoy.snapshot import Resource, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.envoy.proto import Message


class Edits:
    """Collects what is different, and makes the next snapshot of it and the last one."""

    def __init__(self) -> None:
        self._tables: dict[str, Table[Resource]] = {}
        self._parts: dict[str, tuple[Resource, ...]] = {}
        self._edited: dict[str, tuple[Resource, ...]] = {}

    def put(self, part: str, *messages: Message) -> None:
        """Have a part consist of the resources of ``messages``; of none to remove it."""
        self._edited[part] = tuple(Resource.of(message.name, message) for message in messages)

    def snapshot(self) -> Snapshot:
        """The snapshot with all that was put.

        Raises:
            ValueError: Two resources of one type have the same name.
        """
        removed: defaultdict[str, set[str]] = defaultdict(set)
        upserted: defaultdict[str, dict[str, Resource]] = defaultdict(dict)
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
            # The same again stays the very same.
            same = former is not None and former.version == resource.version
            upserted[type_url][name] = former if former is not None and same else resource
        self._edited.clear()
        for type_url in removed.keys() | upserted.keys():
            self._change(type_url, upserted[type_url], removed[type_url])
        return Snapshot({type_url: table for type_url, table in self._tables.items() if table})

    def _change(self, type_url: str, upserted: Mapping[str, Resource], removed: set[str]) -> None:
        table = self._tables.get(type_url, Table[Resource]())
        changed = {name: each for name, each in upserted.items() if table.get(name) is not each}
        self._tables[type_url] = table.changed(changed, removed - upserted.keys())
