r"""The server's side of the incremental xDS protocol for one stream, without I/O.

`DeltaStream` takes requests and snapshots and gives responses. The rules are those of Envoy's
"xDS REST and gRPC protocol", section "Incremental xDS"; where troth chooses:

- Only listeners and clusters have wildcard subscriptions. Secrets contain private keys and are sent
  only to a client that names them.
- A subscribed name that doesn't exist is answered as removed, so that Envoy doesn't wait for it;
  except a secret. A listener must not serve without its secret (Envoy keeps it warming), and Envoy
  doesn't remove secrets anyway: it drops one when nothing refers to it.
- Within a push, resources are added before those that refer to them, and removed after them.
- Secrets are sent one by one: a NACK of several doesn't say which, nor whether the rest counts.
- A NACKed resource is sent again when its content changes, or by `DeltaStream.retry`.

A NACK is about a whole response and has no field for the resources. For listeners and clusters
Envoy applies the valid ones and lists the rejected ones in the message, as in::

    Error adding/updating listener(s) NAME: REASON\nNAME: REASON\n
    Error adding/updating cluster(s) NAME: REASON, NAME: REASON

Any other message (a body that can't be decoded, a certificate without its key) rejects the whole
response.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from envoy.service.discovery.v3 import discovery_pb2

from troth.envoy.snapshot import CLUSTER, ENDPOINTS, LISTENER, RUNTIME, SECRET, Snapshot
from troth.table import difference

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from troth.envoy.snapshot import XdsResource
    from troth.table import Difference


class Nack(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that Envoy rejected; its previous version stays in force.

    Attributes:
        type_url: Its xDS type.
        name: Its name.
        version: The rejected version.
        message: Envoy's own words.
    """

    type_url: str
    name: str
    version: str
    message: str


class TypeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The resources of one type, counted.

    Attributes:
        wanted: Those in the current snapshot.
        subscribed: Those of them that Envoy requested.
        acked: Those of them that it has in the current version.
        nacked: Those of them that it rejected.
    """

    wanted: int = 0
    subscribed: int = 0
    acked: int = 0
    nacked: int = 0


class AdsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The ADS server's status, by the stream opened last.

    Attributes:
        connected: An Envoy has a stream open.
        settled: It has answered everything it requested of the current snapshot.
        types: Counts by type URL.
        nacks: What it rejects now.
        last_push: When something was last sent to it, UTC.
        last_ack: When it last accepted something, UTC.
    """

    connected: bool = False
    settled: bool = False
    types: Mapping[str, TypeStatus] = {}
    nacks: tuple[Nack, ...] = ()
    last_push: datetime | None = None
    last_ack: datetime | None = None


_LISTS = {
    "Error adding/updating listener(s) ": "\n",
    "Error adding/updating cluster(s) ": ", ",
}
"""Envoy's prefixes of lists of rejections, with their separators."""

_TRUNCATED = "...(truncated)"


def refusals(message: str, names: Collection[str]) -> dict[str, str]:
    """Say which of ``names``, the resources of the response, were rejected, and why.

    When in doubt a resource was rejected: otherwise a policy could be reported as in force that
    isn't.
    """
    for introduction, separator in _LISTS.items():
        if message.startswith(introduction):
            found = _split(message.removeprefix(introduction), separator, names)
            break
    else:
        found = {}
    if not found:
        return dict.fromkeys(names, message)
    if message.endswith(_TRUNCATED):
        untold = "Envoy's message is too long; it may have refused this, too"
        return dict.fromkeys(names, untold) | found
    return found


def _split(text: str, separator: str, names: Collection[str]) -> dict[str, str]:
    """Read ``NAME: REASON`` items; a part that begins with no known name continues a reason."""
    found: dict[str, str] = {}
    current = ""
    for part in text.split(separator):
        name = _leading_name(part, names)
        if name is not None:
            current = name
            found[name] = part.removeprefix(f"{name}: ")
        elif not current:
            return {}  # not one of ours: the list can't be split
        else:
            found[current] += separator + part
    return {name: reason.strip() for name, reason in found.items()}


def _leading_name(part: str, names: Collection[str]) -> str | None:
    end = -1
    while (end := part.find(": ", end + 1)) >= 0:
        if part[:end] in names:
            return part[:end]
    return None


Request = Any
"""An ``envoy.service.discovery.v3.DeltaDiscoveryRequest``."""
Response = Any
"""An ``envoy.service.discovery.v3.DeltaDiscoveryResponse``."""

_WILDCARD = "*"
_WILDCARD_TYPES = (CLUSTER, LISTENER)
_REFERRED = (RUNTIME, CLUSTER, ENDPOINTS, SECRET)
"""What listeners depend on, in the order of addition."""


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a request.

    Attributes:
        responses: To send, in this order.
        nonce: The response that this request answered, if any.
        acked: Names of ``type_url`` that Envoy accepted from that response, including removals.
        nacks: What it rejected of it.
        type_url: The type of all these.
    """

    type_url: str
    responses: tuple[Response, ...] = ()
    nonce: str = ""
    acked: tuple[str, ...] = ()
    nacks: tuple[Nack, ...] = ()


class _Push(msgspec.Struct, frozen=True):
    """A response that has not been answered yet."""

    versions: dict[str, str]
    removed: tuple[str, ...]


class _Type:
    """One resource type on one stream."""

    def __init__(self) -> None:
        self.wildcard = False
        self.names: set[str] = set()
        self.sent: dict[str, str] = {}
        self.acked: dict[str, str] = {}
        self.nacks: dict[str, Nack] = {}
        self.pending: dict[str, _Push] = {}

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def forget(self, name: str) -> None:
        self.sent.pop(name, None)
        self.acked.pop(name, None)
        self.nacks.pop(name, None)


_NOTHING = _Type()  # a type that nobody requested


class DeltaStream:
    """One client's stream: what it requested, what it was sent and what it answered."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._types: dict[str, _Type] = {}
        self._last_nonce = 0

    def update(self, snapshot: Snapshot) -> tuple[Response, ...]:
        """Switch to another snapshot; returns the responses with the differences.

        Unchanged resources have been sent already, and are skipped.
        """
        before, self._snapshot = self._snapshot, snapshot
        changes = {
            type_url: difference(before.of_type(type_url), snapshot.of_type(type_url))
            for type_url in (*_REFERRED, LISTENER)
        }
        return tuple(self._push(changes))

    def receive(self, request: Request) -> Reaction:
        """Process a request; returns what to send and what it acknowledged."""
        type_url: str = request.type_url
        state = self._types.get(type_url)
        first = state is None
        if state is None:
            state = self._types[type_url] = _Type()
        acked, nacks = self._answer(state, request)
        forced = self._subscribe(state, type_url, request, first=first)
        responses = tuple(self._push_type(type_url, forced))
        if first and state.wildcard and not responses and not request.initial_resource_versions:
            # Envoy's start waits for an answer for both wildcard types.
            responses = (self._response(type_url, [], []),)
        return Reaction(
            type_url=type_url,
            responses=responses,
            nonce=request.response_nonce,
            acked=acked,
            nacks=nacks,
        )

    def retry(self) -> tuple[Response, ...]:
        """Send again what Envoy rejected; the reason (a port in use) may be gone."""
        return tuple(
            response
            for type_url in (*_REFERRED, LISTENER)
            if (refused := frozenset(nack.name for nack in self._refused(type_url)))
            for response in self._push_type(type_url, refused)
        )

    @property
    def settled(self) -> bool:
        """Whether Envoy has made its usual requests, and has answered all responses."""
        wildcards = all(
            type_url in self._types
            for type_url in _WILDCARD_TYPES
            if self._snapshot.of_type(type_url)
        )
        return wildcards and not any(state.pending for state in self._types.values())

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """What Envoy rejects of the current snapshot."""
        return tuple(nack for type_url in self._types for nack in self._refused(type_url))

    def acked(self, type_url: str) -> dict[str, str]:
        """Name to version of all resources of this type that Envoy is known to have."""
        return dict(self._types.get(type_url, _NOTHING).acked)

    def type_status(self, type_url: str) -> TypeStatus:
        """Count the resources of one type."""
        state, wanted = self._types.get(type_url, _NOTHING), self._snapshot.of_type(type_url)
        subscribed = [resource for name, resource in wanted.items() if state.covers(name)]
        return TypeStatus(
            wanted=len(wanted),
            subscribed=len(subscribed),
            acked=sum(state.acked.get(each.name) == each.version for each in subscribed),
            nacked=len(self._refused(type_url)),
        )

    def _refused(self, type_url: str) -> list[Nack]:
        """NACKs of resources in the snapshot; a secret's NACK stays, as secrets aren't removed."""
        resources = self._snapshot.of_type(type_url)
        return [
            nack
            for name, nack in self._types.get(type_url, _NOTHING).nacks.items()
            if name in resources and resources[name].version == nack.version
        ]

    def _subscribe(
        self, state: _Type, type_url: str, request: Request, *, first: bool
    ) -> frozenset[str]:
        """Apply the request's subscriptions; returns names that must be answered in any case."""
        names = set(request.resource_names_subscribe)
        legacy = first and not names  # a first request that names nothing means everything
        if type_url in _WILDCARD_TYPES and (legacy or _WILDCARD in names):
            state.wildcard = True
        names.discard(_WILDCARD)
        state.names |= names
        # What it has from an earlier stream counts as sent, and differences are sent again.
        known = dict(request.initial_resource_versions) if first else {}
        state.sent.update(known)
        state.acked.update(known)
        gone = set(request.resource_names_unsubscribe)
        if _WILDCARD in gone:
            state.wildcard = False
        state.names -= gone
        for name in [name for name in state.sent if not state.covers(name)]:
            state.forget(name)
        # If it repeats a name, it has dropped that resource.
        return frozenset(names - gone - known.keys())

    def _answer(self, state: _Type, request: Request) -> tuple[tuple[str, ...], tuple[Nack, ...]]:
        """Process an ACK or NACK; one with an unknown nonce is ignored."""
        push = state.pending.pop(request.response_nonce, None)
        if push is None:
            return (), ()
        refused: Mapping[str, str] = {}
        if request.HasField("error_detail"):
            refused = refusals(request.error_detail.message, push.versions)
        nacks: list[Nack] = []
        acked: list[str] = []
        for name, version in push.versions.items():
            current = state.sent.get(name) == version
            if name in refused:
                nack = Nack(
                    type_url=request.type_url, name=name, version=version, message=refused[name]
                )
                nacks.append(nack)
                if current:
                    state.nacks[name] = nack
            else:
                acked.append(name)
                state.acked[name] = version
                if current:
                    state.nacks.pop(name, None)
        for name in push.removed:
            acked.append(name)
            state.acked.pop(name, None)
        return tuple(acked), tuple(nacks)

    def _push(self, changes: Mapping[str, Difference[XdsResource]]) -> Iterator[Response]:
        """All types: additions in the order of references, then removals."""
        for type_url in _REFERRED:
            changed = self._changed(type_url, changes[type_url].upserted)
            yield from self._send(type_url, changed, [])
        # In one response: Envoy applies its removals first, so one listener can take over another's
        # address.
        changed = self._changed(LISTENER, changes[LISTENER].upserted)
        yield from self._send(LISTENER, changed, self._gone(LISTENER, changes[LISTENER].removed))
        for type_url in reversed(_REFERRED):
            yield from self._send(type_url, [], self._gone(type_url, changes[type_url].removed))

    def _push_type(self, type_url: str, forced: frozenset[str] = frozenset()) -> Iterator[Response]:
        """All resources of a type that the stream lacks, or has and shouldn't have."""
        state, resources = self._types.get(type_url, _NOTHING), self._snapshot.of_type(type_url)
        changed = self._changed(type_url, resources if state.wildcard else state.names, forced)
        gone = self._gone(type_url, state.sent.keys() | forced, forced)
        yield from self._send(type_url, changed, gone)

    def _changed(
        self, type_url: str, among: Iterable[str], forced: Collection[str] = ()
    ) -> list[str]:
        """Those of some names that have to be sent."""
        state, resources = self._types.get(type_url, _NOTHING), self._snapshot.of_type(type_url)
        return sorted(
            name
            for name in among
            if name in resources
            and state.covers(name)
            and (name in forced or state.sent.get(name) != resources[name].version)
        )

    def _gone(self, type_url: str, among: Iterable[str], forced: Collection[str] = ()) -> list[str]:
        """Those of some names that have to be sent as removed."""
        if type_url == SECRET:
            return []
        state, resources = self._types.get(type_url, _NOTHING), self._snapshot.of_type(type_url)
        return sorted(
            name
            for name in among
            if name not in resources and (name in forced or name in state.sent)
        )

    def _send(self, type_url: str, changed: list[str], gone: list[str]) -> Iterator[Response]:
        if type_url == SECRET:
            for name in changed:
                yield self._response(type_url, [name], [])
        elif changed or gone:
            yield self._response(type_url, changed, gone)

    def _response(self, type_url: str, changed: list[str], gone: list[str]) -> Response:
        state, resources = self._types[type_url], self._snapshot.of_type(type_url)
        self._last_nonce += 1
        nonce = str(self._last_nonce)
        versions = {name: resources[name].version for name in changed}
        state.pending[nonce] = _Push(versions, tuple(gone))
        for name in gone:
            state.sent.pop(name, None)
            state.nacks.pop(name, None)
        for name in changed:
            state.nacks.pop(name, None)
        state.sent.update(versions)
        return discovery_pb2.DeltaDiscoveryResponse(
            type_url=type_url,
            nonce=nonce,
            resources=[
                discovery_pb2.Resource(
                    name=name, version=versions[name], resource=resources[name].body
                )
                for name in changed
            ],
            removed_resources=gone,
        )
