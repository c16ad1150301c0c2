"""The view against a server that forgets, fails and lies idle, on a clock moved by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from troth.errors import PeerError, Problem, Severity
from troth.kube.reflector import (
    ANY_VERSION,
    Absent,
    Action,
    Bookmark,
    Broken,
    Deleted,
    Ended,
    Event,
    Gone,
    List,
    Listed,
    Opened,
    Reflector,
    Timing,
    Upserted,
    Watch,
)
from troth.kube.resource import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TIMING = Timing()
REFUSED = Broken(PeerError("API server", "connection refused"))
WRONG = Problem(subject="Thing a", path="spec", found="is wrong", wanted="write it right")


def item(key: str, value: int, version: str = "2", uid: str = "") -> Item[int]:
    return Item(key=key, uid=uid or f"uid-{key}", version=version, value=value)


def bad(key: str, version: str = "2", uid: str = "") -> Item[int]:
    return Item(key=key, uid=uid or f"uid-{key}", version=version, problems=(WRONG,))


class Driven:
    """A reflector and its clock; the largest delays, unless told otherwise."""

    def __init__(self, jitter: float = 1.0) -> None:
        self.reflector: Reflector[int] = Reflector(jitter=lambda: jitter)
        self.now = 0.0
        self.action: Action = self.reflector.start()

    def take(self, *events: Event[int], each_lasts: float = 0.0) -> Action:
        """Feed events; the action that is then under way."""
        for event in events:
            self.now += each_lasts
            step = self.reflector.step(event, self.now)
            self.action = step.action or self.action
        return self.action


@pytest.fixture
def watching() -> Driven:
    """A reflector that listed a=1 and b=2 at version 1 and has its watch open."""
    driven = Driven()
    assert driven.take(Listed((item("a", 1), item("b", 2)), "1"), Opened()) == Watch("1")
    return driven


def test_a_view_is_complete_only_after_the_first_list() -> None:
    driven = Driven()
    driven.take(REFUSED)
    assert not driven.reflector.synced
    driven.take(Listed((), "1"))
    assert driven.reflector.synced


def test_the_watch_begins_at_the_version_of_the_list() -> None:
    assert Driven().take(Listed((), "17")) == Watch("17")


@pytest.mark.parametrize(
    ("event", "version"),
    [
        pytest.param(Upserted(item("c", 3, version="5")), "5", id="an object"),
        pytest.param(Deleted(item("a", 1, version="6")), "6", id="a deletion"),
        pytest.param(Bookmark("7"), "7", id="a bookmark"),
        pytest.param(Bookmark(""), "1", id="a bookmark without a version"),
    ],
)
def test_a_watch_resumes_after_the_last_thing_it_heard(
    watching: Driven, event: Event[int], version: str
) -> None:
    action = watching.take(event, Ended())
    assert isinstance(action, Watch)
    assert action.version == version


def test_objects_of_a_watch_change_the_view(watching: Driven) -> None:
    watching.take(Upserted(item("a", 10)), Upserted(item("c", 3)), Deleted(item("b", 2)))
    assert watching.reflector.objects == {"a": 10, "c": 3}


def test_deletions_during_a_gap_are_found_by_the_next_list(watching: Driven) -> None:
    action = watching.take(Gone())
    assert isinstance(action, List)
    step = watching.reflector.step(Listed((item("b", 2), item("c", 3)), "9"), 0)
    assert step.action == Watch("9")
    assert (dict(step.changes.upserted), step.changes.deleted) == ({"c": 3}, frozenset("a"))
    assert watching.reflector.objects == {"b": 2, "c": 3}


def test_a_list_that_says_nothing_new_is_no_change(watching: Driven) -> None:
    watching.take(Gone())
    step = watching.reflector.step(Listed((item("a", 1), item("b", 2)), "9"), 0)
    assert not step.changes


def test_an_object_that_means_the_same_is_no_change(watching: Driven) -> None:
    assert not watching.reflector.step(Upserted(item("a", 1, version="3")), 0).changes
    assert watching.reflector.step(Upserted(item("a", 2, version="4")), 0).changes


def test_a_refused_object_keeps_its_last_good_version(watching: Driven) -> None:
    step = watching.reflector.step(Upserted(bad("a")), 0)
    assert watching.reflector.objects["a"] == 1
    assert watching.reflector.problems == (WRONG,)
    assert step.changes


def test_a_refused_object_keeps_its_last_good_version_over_a_list(watching: Driven) -> None:
    watching.take(Gone(), Listed((bad("a"),), "9"))
    assert watching.reflector.objects == {"a": 1}


def test_a_refused_object_made_anew_under_its_name_has_no_last_good_version(
    watching: Driven,
) -> None:
    watching.take(Upserted(bad("a", uid="another")))
    assert watching.reflector.objects == {"b": 2}


def test_a_mended_object_takes_its_problem_along(watching: Driven) -> None:
    watching.take(Upserted(bad("a")), Upserted(item("a", 5)))
    assert (watching.reflector.objects["a"], watching.reflector.problems) == (5, ())


def test_a_deleted_object_takes_its_problem_along(watching: Driven) -> None:
    watching.take(Upserted(bad("a")))
    assert watching.reflector.step(Deleted(bad("a")), 0).changes
    assert (watching.reflector.objects, watching.reflector.problems) == ({"b": 2}, ())


def test_a_warning_refuses_nothing(watching: Driven) -> None:
    warning = Problem(
        subject="a", path="", found="is odd", wanted="look", severity=Severity.WARNING
    )
    watching.take(Upserted(Item(key="a", uid="uid-a", version="2", value=7, problems=(warning,))))
    assert (watching.reflector.objects["a"], watching.reflector.problems) == (7, (warning,))


def test_an_object_that_is_of_interest_no_longer_is_gone(watching: Driven) -> None:
    step = watching.reflector.step(Upserted(Item(key="a", uid="uid-a", version="2")), 0)
    assert step.changes.deleted == {"a"}
    assert watching.reflector.objects == {"b": 2}


def failures(driven: Driven, *events: Event[int], times: int) -> list[float]:
    return [driven.take(*events).after for _ in range(times)]


def test_delays_double_up_to_a_ceiling_while_a_list_fails() -> None:
    assert failures(Driven(), REFUSED, times=7) == [1, 2, 4, 8, 16, 16, 16]


def test_delays_are_spread_over_half_their_length() -> None:
    assert failures(Driven(jitter=0.0), REFUSED, times=3) == [0.5, 1, 2]


def test_the_first_list_comes_at_once_and_may_be_what_the_server_has_at_hand() -> None:
    assert Driven().action == List(0, since=ANY_VERSION)


def test_a_list_after_a_failure_is_of_what_is_stored() -> None:
    assert Driven().take(REFUSED) == List(TIMING.base, since="")


@pytest.mark.parametrize(
    "events",
    [
        pytest.param((REFUSED,), id="refused"),
        pytest.param((Opened(), REFUSED), id="opened, then broken"),
        pytest.param((Opened(), Ended()), id="opened, then ended"),
    ],
)
def test_delays_grow_while_a_watch_opens_and_is_of_no_use(
    events: tuple[Event[int], ...],
) -> None:
    driven = Driven()
    driven.take(Listed((), "1"))
    assert failures(driven, *events, times=2) == [1, 2]


def test_the_third_failure_of_a_watch_in_a_row_lists_and_delays_go_on_growing() -> None:
    driven = Driven()
    driven.take(Listed((), "1"))
    assert [driven.take(REFUSED) for _ in range(3)] == [Watch("1", 1), Watch("1", 2), List(4)]
    driven.take(Listed((), "2"))
    assert driven.take(REFUSED) == Watch("2", 8)


@pytest.mark.parametrize(
    "proof", [Upserted(item("a", 5)), Deleted(item("a", 1)), Bookmark("2")], ids=type
)
def test_delays_begin_anew_after_something_came_through_a_watch(
    watching: Driven, proof: Event[int]
) -> None:
    failures(watching, REFUSED, times=2)
    assert watching.take(Opened(), proof, REFUSED).after == TIMING.base


def test_delays_begin_anew_after_a_watch_that_stayed_open(watching: Driven) -> None:
    failures(watching, REFUSED, times=2)
    watching.take(Opened())
    assert watching.take(REFUSED, each_lasts=TIMING.useful_after).after == TIMING.base


def test_a_connection_that_takes_long_to_open_is_of_no_use(watching: Driven) -> None:
    failures(watching, REFUSED, times=1)
    assert watching.take(REFUSED, each_lasts=1000).after == 2 * TIMING.base


def test_a_useful_watch_that_ends_is_resumed_at_once(watching: Driven) -> None:
    assert watching.take(Ended(), each_lasts=TIMING.useful_after).after == 0


def test_useful_watches_that_end_quickly_are_held_to_one_in_an_interval(
    watching: Driven,
) -> None:
    for _ in range(5):
        assert watching.take(Bookmark("2"), Ended()).after == TIMING.interval
        watching.take(Opened())


def test_the_server_is_left_alone_as_long_as_it_asks(watching: Driven) -> None:
    asked = Broken(PeerError("API server", "too many requests"), not_before=30)
    assert watching.take(asked).after == 30


def test_the_first_410_lists_within_the_spread_and_further_ones_back_off(
    watching: Driven,
) -> None:
    assert watching.take(Bookmark("2"), Gone()) == List(TIMING.spread, since="2")
    watching.take(Listed((), "3"), Opened())
    assert watching.take(Gone()) == List(TIMING.spread, since="3")
    watching.take(Listed((), "4"), Opened())
    assert watching.take(Gone()) == List(2 * TIMING.base)


def test_a_list_after_410_is_not_older_than_what_is_known(watching: Driven) -> None:
    assert watching.take(Bookmark("2"), Gone()) == List(TIMING.spread, since="2")


def test_what_keeps_the_view_from_being_current_is_told_until_a_watch_is_open(
    watching: Driven,
) -> None:
    def error() -> object:
        return watching.reflector.error

    assert error() is None
    watching.take(Gone(), REFUSED)
    assert error() is REFUSED.error
    watching.take(Listed((), "9"))
    assert error() is REFUSED.error
    watching.take(Opened())
    assert error() is None


def test_a_kind_that_was_never_served_is_empty_and_asked_for_slowly() -> None:
    driven = Driven()
    assert driven.take(Absent()) == List(TIMING.absent)
    assert (driven.reflector.synced, driven.reflector.error) == (True, None)


def test_a_kind_that_disappears_is_believed_gone_only_the_third_time(watching: Driven) -> None:
    for _ in range(2):
        watching.take(Absent())
        assert watching.reflector.objects == {"a": 1, "b": 2}
    assert watching.take(Absent()) == List(TIMING.absent)
    assert watching.reflector.objects == {}


def test_a_kind_that_comes_back_meanwhile_has_lost_nothing(watching: Driven) -> None:
    for _ in range(3):
        watching.take(Absent(), Absent(), Listed((item("a", 1),), "4"))
        assert watching.reflector.objects == {"a": 1}


class Server:
    """Remembers a few changes only; what it says of a moment is what then held."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, Item[int]] = {}
        self.log: list[tuple[int, Event[int]]] = []

    def put(self, key: str, value: int | None, *, anew: bool) -> None:
        self.version += 1
        former = self.objects.get(key)
        if anew and former is not None:
            self.log.append((self.version, Deleted(self._at(former))))
            self.version += 1
        uid = f"{key}@{self.version}" if anew or former is None else former.uid
        version = str(self.version)
        problems = (WRONG,) if value is None else ()
        self.objects[key] = Item(key=key, uid=uid, version=version, value=value, problems=problems)
        self.log.append((self.version, Upserted(self.objects[key])))

    def remove(self, key: str) -> None:
        if key in self.objects:
            self.version += 1
            self.log.append((self.version, Deleted(self._at(self.objects.pop(key)))))

    def forget(self) -> None:
        self.log.clear()

    def list(self) -> Listed[int]:
        return Listed(tuple(self.objects.values()), str(self.version))

    def since(self, version: str) -> Iterable[Event[int]]:
        oldest = self.log[0][0] if self.log else self.version + 1
        if int(version) < oldest - 1:
            yield Gone()
            return
        yield from (event for at, event in self.log if at > int(version))

    def _at(self, item: Item[int]) -> Item[int]:
        return Item(key=item.key, uid=item.uid, version=str(self.version), value=item.value)


class ConvergenceMachine(RuleBasedStateMachine):
    """Whatever goes wrong, a quiet while with the server later the view is the server's."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.reflector: Reflector[int] = Reflector(jitter=lambda: 0.5)
        self.action: Action = self.reflector.start()
        self.now = 0.0
        self.applied: dict[str, int] = {}

    keys = st.sampled_from("abc")

    @rule(key=keys, value=st.integers(0, 3), anew=st.booleans())
    def put(self, key: str, value: int, *, anew: bool) -> None:
        self.server.put(key, value, anew=anew)

    @rule(key=keys, anew=st.booleans())
    def spoil(self, key: str, *, anew: bool) -> None:
        self.server.put(key, None, anew=anew)

    @rule(key=keys)
    def remove(self, key: str) -> None:
        self.server.remove(key)

    @rule()
    def compact(self) -> None:
        self.server.forget()

    @rule()
    def restart_empty_handed(self) -> None:
        self.take(Absent())

    @rule(event=st.sampled_from([REFUSED, Gone(), Ended()]), events=st.integers(0, 3))
    def work_and_fail(self, event: Event[int], events: int) -> None:
        self.work(events)
        self.take(event)

    @rule()
    def settle(self) -> None:
        for _ in range(10):  # a delay's third attempt lists, then it watches
            self.work(100)
        # Of a refused object the last good version may count or, after a gap, an earlier one.
        good = {key: item.value for key, item in self.server.objects.items() if not item.problems}
        view = self.reflector.objects
        assert view.keys() <= self.server.objects.keys()
        assert {key: view.get(key) for key in good} == good
        assert len(self.reflector.problems) == len(self.server.objects) - len(good)

    def work(self, events: int) -> None:
        self.now += self.action.after
        if isinstance(self.action, List):
            self.take(self.server.list())
            return
        version = self.action.version
        self.take(Opened())
        for _, event in zip(range(events), list(self.server.since(version)), strict=False):
            if self.take(event):
                return
        self.take(Ended())

    def take(self, event: Event[int]) -> bool:
        step = self.reflector.step(event, self.now)
        self.applied |= step.changes.upserted
        for key in step.changes.deleted:
            del self.applied[key]
        self.action = step.action or self.action
        return step.action is not None

    @invariant()
    def changes_add_up_to_the_view(self) -> None:
        assert self.applied == self.reflector.objects

    @invariant()
    def delays_are_bounded(self) -> None:
        assert 0 <= self.action.after <= TIMING.ceiling


TestConvergence = ConvergenceMachine.TestCase
TestConvergence.settings = settings(stateful_step_count=30)


@pytest.mark.parametrize("make", [item, bad], ids=["good", "refused"])
def test_what_is_stored_is_told_by_generation_whether_it_can_be_used_or_not(
    watching: Driven, make: Callable[..., Item[int]]
) -> None:
    thing = make("c", 3) if make is item else make("c")
    stored = watching.reflector.stored
    for generation in (1, 2):
        step = watching.reflector.step(
            Upserted(msgspec.structs.replace(thing, generation=generation)), 0
        )
        assert step.changes.stored
        assert watching.reflector.stored == stored | {("uid-c", generation)}
    same = watching.reflector.step(Upserted(msgspec.structs.replace(thing, generation=2)), 0)
    assert not same.changes
    assert watching.reflector.step(Deleted(thing), 0).changes.stored
    assert watching.reflector.stored == stored
