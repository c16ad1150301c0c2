"""One kind of object followed at an API server, without I/O: list, then watch from that version.

A `Reflector` is told what happened and says what to do next. Its view is always a state that the
server had: after ``410 Gone``, or when watching fails repeatedly, it lists again and computes the
difference, so it doesn't miss deletions.

The first list, and one after 410, may come from the server's cache: it is at least as new as the
view, and the watch brings the rest. After a failure the list comes from storage.

=====================  ==========================================================================
what happened          what is done next
=====================  ==========================================================================
a list came            watch from its version
the watch ended        watch from the last version; at once if the stream had proven useful
the watch broke        watch from the last version after a delay; every third time in a row list
a list failed          list after a delay
the version is gone    list after a moment, so that not all clients do so at once
the kind isn't served  ask again slowly; its objects are gone once that was said several times
=====================  ==========================================================================

Delays with jitter grow with each failure until a stream proves useful: an event arrives, or it
stays open for a while. Response headers are not enough: a server that fails right after them would
get requests without pause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec

from troth.errors import Problem, TrothError
from troth.kube.resource import Item
from troth.retry import doubled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

_LIST_EVERY = 3
"""Every so many failures in a row, list: the version itself may be the cause."""

_ABSENCES = 3
"""How often the server must say that it doesn't serve a kind before its objects count as deleted: a
server that is just starting says so, too."""


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """All existing objects, at ``version``."""

    items: tuple[Item[T], ...]
    version: str


class Opened(msgspec.Struct, frozen=True):
    """The server accepted the watch."""


class Upserted(msgspec.Struct, Generic[T], frozen=True):
    """The watch reported an object that is new or has changed (``ADDED``, ``MODIFIED``)."""

    item: Item[T]


class Deleted(msgspec.Struct, Generic[T], frozen=True):
    """The watch reported that an object is gone (``DELETED``)."""

    item: Item[T]


class Bookmark(msgspec.Struct, frozen=True):
    """The watch reported that all changes up to ``version`` have been sent (``BOOKMARK``)."""

    version: str


class Ended(msgspec.Struct, frozen=True):
    """The server ended the watch normally, as it does every few minutes."""


class Gone(msgspec.Struct, frozen=True):
    """The server no longer has the events since the version (``410``)."""


class Absent(msgspec.Struct, frozen=True):
    """The server doesn't serve the kind (``404``)."""


class Broken(msgspec.Struct, frozen=True):
    """A list or watch failed.

    Attributes:
        error: Why.
        not_before: Seconds to wait before retrying (``Retry-After``).
    """

    error: TrothError
    not_before: float = 0.0


ANY_VERSION = "0"
"""As a `List.since`: any version in the server's cache."""


class List(msgspec.Struct, frozen=True):
    """List all objects, ``after`` seconds from now.

    Attributes:
        after: When.
        since: A version that the list may not be older than; empty to read the server's storage.
    """

    after: float = 0.0
    since: str = ""


class Watch(msgspec.Struct, frozen=True):
    """Watch for what happened since ``version``, ``after`` seconds from now."""

    version: str
    after: float = 0.0


Action: TypeAlias = List | Watch


class Changes(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """How the view has changed.

    Attributes:
        upserted: New and changed objects, by key.
        deleted: Keys of deleted objects.
        problems: Whether `Reflector.problems` has changed.
        stored: Whether `Reflector.stored` has changed.
    """

    upserted: Mapping[str, T] = {}
    deleted: frozenset[str] = frozenset()
    problems: bool = False
    stored: bool = False

    def __bool__(self) -> bool:
        return bool(self.upserted or self.deleted or self.problems or self.stored)


class ReflectorStep(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The result of an event; without an ``action`` the current one continues."""

    changes: Changes[T]
    action: Action | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """All times, in seconds.

    Attributes:
        spread: A list after 410 starts at a random moment within this.
        base: The first delay after a failure.
        ceiling: The longest delay.
        useful_after: A watch that stays open this long is useful even without events.
        interval: The least time between the starts of two watches if the first ended normally.
        absent: Between two lists of a kind that isn't served.
    """

    spread: float = 0.5
    base: float = 1.0
    ceiling: float = 16.0
    useful_after: float = 10.0
    interval: float = 1.0
    absent: float = 15.0


class Reflector(Generic[T]):
    """The view of one kind of object.

    Args:
        jitter: Random numbers from 0 up to 1.
        timing: How long to wait in each case.

    Attributes:
        synced: Whether the view has been complete once.
        error: Why it isn't up to date; None while a watch is open.
    """

    def __init__(self, *, jitter: Callable[[], float], timing: Timing | None = None) -> None:
        self.synced = False
        self.error: TrothError | None = None
        self._jitter = jitter
        self._timing = timing or Timing()
        self._known: dict[str, Item[T]] = {}
        self._action: Action = List()
        self._version = ""
        self._opened: float | None = None
        self._heard = False
        self._failures = 0
        self._absences = 0

    @property
    def objects(self) -> Mapping[str, T]:
        """All objects by key; for a refused one, its last good version."""
        return {key: item.value for key, item in self._known.items() if item.value is not None}

    @property
    def stored(self) -> frozenset[tuple[str, int]]:
        """UID and generation of all objects that the server has, including refused ones."""
        return frozenset((item.uid, item.generation) for item in self._known.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of all objects, in the order of their keys."""
        return tuple(
            problem for _, item in sorted(self._known.items()) for problem in item.problems
        )

    def start(self) -> Action:
        """The first action."""
        return self._do(List(since=ANY_VERSION))

    def step(self, event: Event[T], now: float) -> ReflectorStep[T]:
        """Take ``event`` into account.

        Args:
            event: The outcome of the current action.
            now: The time of a monotonic clock, in seconds.
        """
        changes: Changes[T] = _NOTHING
        action: Action | None = None
        match event:
            case Opened():
                self._opened, self.error = now, None
            case Bookmark(version):
                self._hear(version)
            case Upserted(item):
                self._hear(item.version)
                changes = self._upsert(item)
            case Deleted(item):
                self._hear(item.version)
                changes = self._delete([item.key])
            case Listed(items, version):
                self.synced, self._absences = True, 0
                changes, action = self._replace(items), self._do(Watch(version))
            case Ended():
                action = self._resume(now)
            case Gone():
                action = self._start_over(now)
            case Absent():
                changes, action = self._absent()
            case Broken(error, not_before):
                self.error = error
                action = self._retry(now, not_before)
        return ReflectorStep(changes=changes, action=action)

    def _do(self, action: Action) -> Action:
        if isinstance(action, Watch):
            self._version = action.version
        self._action, self._opened, self._heard = action, None, False
        return action

    def _hear(self, version: str) -> None:
        self._heard, self._failures = True, 0
        self._version = version or self._version

    def _resume(self, now: float) -> Action:
        if not self._was_useful(now):
            self._failures += 1
            return self._again(self._backoff(self._failures))
        self._failures = 0
        return self._again(max(0.0, self._timing.interval - self._lasted(now)))

    def _retry(self, now: float, not_before: float) -> Action:
        self._failures = 1 if self._was_useful(now) else self._failures + 1
        return self._again(max(self._backoff(self._failures), not_before))

    def _again(self, after: float) -> Action:
        watched = isinstance(self._action, Watch)
        if watched and (self._failures == 0 or self._failures % _LIST_EVERY):
            return self._do(Watch(self._version, after))
        return self._do(List(after))

    def _start_over(self, now: float) -> Action:
        self._failures = 0 if self._was_useful(now) else self._failures + 1
        if self._failures > 1:
            return self._do(List(self._backoff(self._failures)))
        return self._do(List(self._timing.spread * self._jitter(), self._version))

    def _absent(self) -> tuple[Changes[T], Action]:
        self._absences += 1
        if self._known and self._absences < _ABSENCES:
            return _NOTHING, self._do(List(self._backoff(self._absences)))
        self.synced, self.error = True, None
        after = self._timing.absent * (0.5 + 0.5 * self._jitter())
        return self._replace(()), self._do(List(after))

    def _was_useful(self, now: float) -> bool:
        return self._heard or self._lasted(now) >= self._timing.useful_after

    def _lasted(self, now: float) -> float:
        return now - self._opened if self._opened is not None else 0.0

    def _backoff(self, failures: int) -> float:
        delay = doubled(self._timing.base, self._timing.ceiling, failures - 1)
        return delay * (0.5 + 0.5 * self._jitter())

    def _replace(self, items: Iterable[Item[T]]) -> Changes[T]:
        now = {item.key: item for item in items}
        deleted = self._delete(self._known.keys() - now.keys())
        upserted: dict[str, T] = {}
        gone, problems, stored = set(deleted.deleted), deleted.problems, deleted.stored
        for item in now.values():
            changes = self._upsert(item)
            upserted |= changes.upserted
            gone |= changes.deleted
            problems |= changes.problems
            stored |= changes.stored
        return Changes(upserted=upserted, deleted=frozenset(gone), problems=problems, stored=stored)

    def _upsert(self, item: Item[T]) -> Changes[T]:
        former = self._known.get(item.key)
        # An object that was deleted and recreated has no last good version.
        if item.is_refused:
            kept = former.value if former is not None and former.uid == item.uid else None
            item = msgspec.structs.replace(item, value=kept)
        self._known[item.key] = item
        before = former.value if former is not None else None
        problems = item.problems != (former.problems if former is not None else ())
        stored = former is None or ((former.uid, former.generation) != (item.uid, item.generation))
        if item.value is None:
            deleted = frozenset({item.key} if before is not None else ())
            return Changes(deleted=deleted, problems=problems, stored=stored)
        upserted = {item.key: item.value} if item.value != before else {}
        return Changes(upserted=upserted, problems=problems, stored=stored)

    def _delete(self, keys: Iterable[str]) -> Changes[T]:
        former = {key: self._known.pop(key) for key in list(keys) if key in self._known}
        return Changes(
            deleted=frozenset(key for key, item in former.items() if item.value is not None),
            problems=any(item.problems for item in former.values()),
            stored=bool(former),
        )


Event: TypeAlias = (
    Listed[T] | Opened | Upserted[T] | Deleted[T] | Bookmark | Ended | Gone | Absent | Broken
)
_NOTHING: Changes[Any] = Changes()
