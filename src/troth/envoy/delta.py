r"""The server's side of the incremental xDS protocol for one stream, without I/O.

`DeltaStream` takes requests and snapshots and gives responses. The rules are those of Envoy's
"xDS REST and gRPC protocol", section "Incremental xDS"; where troth chooses:

- Only listeners and clusters know a wildcard subscription. Secrets hold private keys and are sent
  only to a client that names them.
- A name that is subscribed but doesn't exist is answered as removed, so that Envoy needn't wait
  for it; except a secret. Without its secret a listener shall not serve yet (Envoy keeps it
  warming), and for Envoy a secret can't be removed anyway: it forgets one when nothing names it.
- Within a push what is referred to comes before what refers to it, and goes after it.
- Secrets are sent one by one: a NACK of several says neither which nor whether the rest counts.
- A resource that was NACKed is sent again when its content changes, or by `DeltaStream.retry`.

A NACK says nowhere by itself which resources it is about: it is for a whole response. For listeners
and clusters Envoy applies the good ones all the same and lists the bad ones in the message, as in::

    Error adding/updating listener(s) NAME: REASON\nNAME: REASON\n
    Error adding/updating cluster(s) NAME: REASON, NAME: REASON

Any other message (a body that can't be decoded, a certificate without its key) means that nothing
of the response counts.
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
    """A resource that Envoy refused; what it had before under that name stays in force.

    Attributes:
        type_url: Its xDS type.
        name: Its name.
        version: The version refused.
        message: Envoy's own words.
    """

    type_url: str
    name: str
    version: str
    message: str


class TypeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The resources of one type, counted.

    Attributes:
        wanted: In the current snapshot.
        subscribed: Of those, what Envoy has asked for.
        acked: Of those, what it has in the current version.
        nacked: Of those, what it refused.
    """

    wanted: int = 0
    subscribed: int = 0
    acked: int = 0
    nacked: int = 0


class AdsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The ADS server as seen from the stream that was opened last.

    Attributes:
        connected: An Envoy has a stream open.
        settled: It has answered everything it asked for of the current snapshot.
        types: Counts by type URL.
        nacks: What it refuses now.
        last_push: When something was last sent to it, UTC.
        last_ack: When it last took something over, UTC.
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
"""How Envoy introduces a list of refusals, and what stands between two of them."""

_TRUNCATED = "...(truncated)"


def refusals(message: str, names: Collection[str]) -> dict[str, str]:
    """Say which of ``names``, the resources of the response, were refused, and why.

    When in doubt a resource was refused: to take a refusal for an acceptance would show a policy
    as in force that isn't.
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
            return {}  # not one of ours: the list can't be told apart
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
"""What listeners refer to or are limited by, in the order in which it is added."""


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a request.

    Attributes:
        responses: To be sent, in this order.
        nonce: The response that this request answered, if it answered one.
        acked: Names of ``type_url`` that Envoy took over from that response, removals too.
        nacks: What it refused of it.
        type_url: The type all this is about.
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


_NOTHING = _Type()  # a type that nobody asked for


class DeltaStream:
    """One client's stream: what it asked for, what it was sent and what it made of that."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._types: dict[str, _Type] = {}
        self._last_nonce = 0

    def update(self, snapshot: Snapshot) -> tuple[Response, ...]:
        """Turn to another snapshot; returns what to send for it, which is only what differs.

        What hasn't changed was sent to all that asked for it, and is skipped.
        """
        before, self._snapshot = self._snapshot, snapshot
        changes = {
            type_url: difference(before.of_type(type_url), snapshot.of_type(type_url))
            for type_url in (*_REFERRED, LISTENER)
        }
        return tuple(self._push(changes))

    def receive(self, request: Request) -> Reaction:
        """Take a request in; returns what to send and what it acknowledged."""
        type_url: str = request.type_url
        state = self._types.get(type_url)
        first = state is None
        if state is None:
            state = self._types[type_url] = _Type()
        acked, nacks = self._answer(state, request)
        forced = self._subscribe(state, type_url, request, first=first)
        responses = tuple(self._push_type(type_url, forced))
        if first and state.wildcard and not responses and not request.initial_resource_versions:
            # Envoy doesn't go on starting before it has heard of both wildcard types.
            responses = (self._response(type_url, [], []),)
        return Reaction(
            type_url=type_url,
            responses=responses,
            nonce=request.response_nonce,
            acked=acked,
            nacks=nacks,
        )

    def retry(self) -> tuple[Response, ...]:
        """Have Envoy try again what it refused; the reason (a port in use) may have gone."""
        return tuple(
            response
            for type_url in (*_REFERRED, LISTENER)
            if (refused := frozenset(nack.name for nack in self._refused(type_url)))
            for response in self._push_type(type_url, refused)
        )

    @property
    def settled(self) -> bool:
        """Whether Envoy has answered all it asked for, and has asked for what it always does."""
        wildcards = all(
            type_url in self._types
            for type_url in _WILDCARD_TYPES
            if self._snapshot.of_type(type_url)
        )
        return wildcards and not any(state.pending for state in self._types.values())

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """What Envoy refuses of the current snapshot."""
        return tuple(nack for type_url in self._types for nack in self._refused(type_url))

    def acked(self, type_url: str) -> dict[str, str]:
        """Name to version of all of this type that Envoy is known to have."""
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
        """NACKs of what the snapshot still has (a secret's outlives it, as it isn't removed)."""
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
        # What it has from an earlier stream counts as sent, and what differs is sent again.
        known = dict(request.initial_resource_versions) if first else {}
        state.sent.update(known)
        state.acked.update(known)
        gone = set(request.resource_names_unsubscribe)
        if _WILDCARD in gone:
            state.wildcard = False
        state.names -= gone
        for name in [name for name in state.sent if not state.covers(name)]:
            state.forget(name)
        # A name it repeats is one it has forgotten.
        return frozenset(names - gone - known.keys())

    def _answer(self, state: _Type, request: Request) -> tuple[tuple[str, ...], tuple[Nack, ...]]:
        """Take an ACK or NACK; one for a nonce that isn't ours says nothing."""
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
        """All types: additions so that nothing refers to what isn't there yet, then removals."""
        for type_url in _REFERRED:
            changed = self._changed(type_url, changes[type_url].upserted)
            yield from self._send(type_url, changed, [])
        # In one response, of which Envoy does the removals first: so one listener can take over
        # another's address.
        changed = self._changed(LISTENER, changes[LISTENER].upserted)
        yield from self._send(LISTENER, changed, self._gone(LISTENER, changes[LISTENER].removed))
        for type_url in reversed(_REFERRED):
            yield from self._send(type_url, [], self._gone(type_url, changes[type_url].removed))

    def _push_type(self, type_url: str, forced: frozenset[str] = frozenset()) -> Iterator[Response]:
        """All of a type that the stream should have and hasn't, or has and shouldn't."""
        state, resources = self._types.get(type_url, _NOTHING), self._snapshot.of_type(type_url)
        changed = self._changed(type_url, resources if state.wildcard else state.names, forced)
        gone = self._gone(type_url, state.sent.keys() | forced, forced)
        yield from self._send(type_url, changed, gone)

    def _changed(
        self, type_url: str, among: Iterable[str], forced: Collection[str] = ()
    ) -> list[str]:
        """The names among some that are to be sent."""
        state, resources = self._types.get(type_url, _NOTHING), self._snapshot.of_type(type_url)
        return sorted(
            name
            for name in among
            if name in resources
            and state.covers(name)
            and (name in forced or state.sent.get(name) != resources[name].version)
        )

    def _gone(self, type_url: str, among: Iterable[str], forced: Collection[str] = ()) -> list[str]:
        """The names among some that are to be told as removed."""
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
