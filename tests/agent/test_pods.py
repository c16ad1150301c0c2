from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from troth.agent.pods import (
    DRAIN_SECONDS,
    JOIN_SECONDS,
    LATE_SECONDS,
    LIFE,
    UNCAPTURED_SECONDS,
    Action,
    Lack,
    PodEvent,
    Pods,
    Row,
    Stage,
)
from troth.mesh.model import Pod, PodPhase

GRACE = 2.0
NETNS = Path("/run/netns/a")
A, NONE = frozenset({"a"}), frozenset[str]()


def pod(
    *,
    ready: bool = False,
    told: bool = False,
    phase: PodPhase = PodPhase.RUNNING,
    addresses: tuple[str, ...] = ("10.244.1.2",),
) -> dict[str, Pod]:
    return {
        "a": Pod(
            uid="a",
            namespace="shop",
            name="a",
            ready=ready,
            captured=told,
            phase=phase,
            addresses=addresses,
        )
    }


def capture(pods: Pods) -> None:
    pods.led("a", exempts=True)


def marked(pods: Pods) -> frozenset[str]:
    """Whose mark is to be out, given that Envoy has what it needs for that."""
    pods.show()
    return pods.announced


class Node:
    """An `Pods` of one pod, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pods = Pods(grace=GRACE)

    def see(self, pods: dict[str, Pod], *, wanted: bool = True, later: float = 0.0) -> Pods:
        self.now += later
        self.pods.see({"a": NETNS} if wanted else {}, pods, self.now)
        return self.pods

    def captured(self, *, in_use: bool) -> Pods:
        pods = self.see(pod(ready=in_use))
        capture(pods)
        return pods

    def leaving(self) -> Pods:
        self.captured(in_use=False)
        self.see(pod(ready=True, told=True))
        return self.see(pod(ready=True, told=True), wanted=False)

    def draining(self) -> Pods:
        pods = self.leaving()
        self.see(pod(ready=True), wanted=False)
        self.see(pod(ready=True), wanted=False, later=GRACE)
        pods.happened("a", PodEvent.UNDONE)
        return self.see(pod(ready=True), wanted=False)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_pod_that_was_never_ready_is_enforced_from_its_first_connection(node: Node) -> None:
    pods = node.see(pod())
    assert (pods.due(Action.CAPTURE), pods.lenient) == (A, NONE)
    capture(pods)
    assert (marked(pods), pods.lenient) == (A, NONE)
    node.see(pod(ready=True))
    assert not pods.lenient


def test_a_pod_in_use_takes_plaintext_until_its_announcement_has_been_out_for_the_grace_period(
    node: Node,
) -> None:
    pods = node.see(pod(ready=True))
    assert pods.lenient  # before its capture, so that Envoy knows in time
    assert not marked(pods)
    capture(pods)
    assert marked(pods) == {"a"}
    node.see(pod(ready=True), later=JOIN_SECONDS / 2)
    assert pods.lenient  # nobody has been told yet
    node.see(pod(ready=True, told=True))
    assert pods.next_change == node.now + GRACE
    node.see(pod(ready=True, told=True), later=GRACE - 0.1)
    assert pods.lenient
    node.see(pod(ready=True, told=True), later=0.1)
    assert (marked(pods), pods.lenient) == (A, NONE)
    assert pods.next_change is None


def test_a_pod_in_use_that_cannot_be_announced_is_held_to_the_policy_in_the_end(node: Node) -> None:
    pods = node.captured(in_use=True)
    node.see(pod(ready=True))
    assert pods.next_change == node.now + JOIN_SECONDS
    node.see(pod(ready=True), later=JOIN_SECONDS - 0.1)
    assert pods.lenient
    node.see(pod(ready=True), later=0.1)
    assert (marked(pods), pods.lenient) == (A, NONE)


def test_an_announcement_that_is_taken_back_again_and_again_keeps_no_pod_lenient(
    node: Node,
) -> None:
    pods = node.captured(in_use=True)
    node.see(pod(ready=True))
    for told in (True, False) * round(JOIN_SECONDS / GRACE):
        node.see(pod(ready=True, told=told), later=GRACE / 2)
    assert pods.lenient == NONE


def test_the_time_of_a_pod_that_joins_begins_with_its_capture(node: Node) -> None:
    pods = node.captured(in_use=True)
    pods.note_time(node.now)
    assert pods.next_change == node.now + JOIN_SECONDS
    node.see(pod(ready=True), later=JOIN_SECONDS)
    assert pods.lenient == NONE


def test_a_pod_joins_while_it_takes_plaintext_and_leaves_without_joining(node: Node) -> None:
    pods = node.see(pod(ready=True))
    assert (pods.joining, pods.redirected) == (A, NONE)
    capture(pods)
    node.see(pod(ready=True, told=True))
    assert (pods.joining, pods.redirected) == (A, A)
    node.see(pod(ready=True, told=True), later=GRACE)
    assert (pods.joining, pods.redirected) == (NONE, A)
    node.see(pod(ready=True, told=True), wanted=False)
    assert (pods.lenient, pods.joining, pods.redirected) == (A, NONE, A)
    node.see(pod(ready=True), wanted=False)
    node.see(pod(ready=True), wanted=False, later=GRACE)
    assert (pods.lenient, pods.joining, pods.redirected) == (A, NONE, A)
    pods.happened("a", PodEvent.UNDONE)
    assert (pods.joining, pods.redirected) == (NONE, NONE)


def test_an_announcement_that_somebody_takes_back_starts_the_grace_period_anew(node: Node) -> None:
    pods = node.captured(in_use=True)
    node.see(pod(ready=True, told=True))
    node.see(pod(ready=True), later=GRACE / 2)
    node.see(pod(ready=True, told=True), later=GRACE)
    assert pods.lenient
    node.see(pod(ready=True, told=True), later=GRACE)
    assert not pods.lenient


def test_taking_the_announcement_of_an_enforced_pod_back_makes_it_no_laxer(node: Node) -> None:
    pods = node.captured(in_use=False)
    node.see(pod(ready=True, told=True))
    node.see(pod(ready=True), later=GRACE)
    assert (marked(pods), pods.lenient) == (A, NONE)


def test_without_a_grace_period_the_announcement_is_enough() -> None:
    pods = Pods(grace=0)
    pods.see({"a": NETNS}, pod(ready=True), 100.0)
    capture(pods)
    pods.see({"a": NETNS}, pod(ready=True, told=True), 100.0)
    assert not pods.lenient


def test_an_announced_pod_of_an_earlier_agent_is_enforced_at_once(node: Node) -> None:
    pods = node.see(pod(ready=True, told=True))
    assert (pods.due(Action.CAPTURE), pods.lenient) == (A, NONE)


def test_a_pod_that_leaves_takes_plaintext_at_once_and_stays_captured_until_all_know(
    node: Node,
) -> None:
    pods = node.leaving()
    assert (marked(pods), pods.lenient) == (NONE, A)
    node.see(pod(told=True), wanted=False, later=1000 * GRACE)
    assert not pods.due(Action.RELEASE)
    node.see(pod(), wanted=False)
    node.see(pod(), wanted=False, later=GRACE - 0.1)
    assert not pods.due(Action.RELEASE)
    node.see(pod(), wanted=False, later=0.1)
    assert pods.due(Action.RELEASE) == {"a"}


def test_a_released_pod_keeps_its_listeners_for_its_last_connections(node: Node) -> None:
    pods = node.draining()
    assert set(pods.netns) == pods.lenient == {"a"}
    node.see(pod(), wanted=False, later=LATE_SECONDS)
    assert set(pods.netns) == pods.lenient == {"a"}
    pods.happened("a", PodEvent.IDLE)
    assert pods.netns == {}


def test_a_released_pod_is_served_until_nobody_comes_late(node: Node) -> None:
    pods = node.draining()
    node.see(pod(), wanted=False, later=LATE_SECONDS - 1)
    assert not pods.due(Action.LOOK_FOR_CONNECTIONS)
    pods.happened("a", PodEvent.IDLE)
    assert "a" in pods.netns
    node.see(pod(), wanted=False, later=1)
    assert pods.due(Action.LOOK_FOR_CONNECTIONS) == {"a"}


def test_a_connection_that_never_ends_keeps_the_listeners_for_a_limited_time(node: Node) -> None:
    pods = node.draining()
    node.see(pod(), wanted=False, later=LATE_SECONDS)
    node.see(pod(), wanted=False, later=DRAIN_SECONDS - LATE_SECONDS - 1)
    assert "a" in pods.netns
    node.see(pod(), wanted=False, later=1)
    assert pods.netns == {}


def test_a_pod_that_leaves_and_comes_back_is_not_captured_twice(node: Node) -> None:
    pods = node.leaving()
    node.see(pod(ready=True, told=True))
    assert (marked(pods), pods.due(Action.CAPTURE)) == (A, NONE)
    assert pods.lenient
    node.see(pod(ready=True, told=True), later=GRACE)
    assert not pods.lenient


def test_a_released_pod_that_comes_back_is_captured_again_as_one_in_use(node: Node) -> None:
    pods = node.draining()
    node.see(pod(ready=True))
    assert pods.due(Action.CAPTURE) == pods.lenient == {"a"}


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param({}, id="deleted"),
        pytest.param(pod(phase=PodPhase.SUCCEEDED), id="completed"),
        pytest.param(pod(addresses=()), id="its address given to another"),
    ],
)
def test_a_pod_that_has_ended_is_let_go_at_once(node: Node, pods: dict[str, Pod]) -> None:
    node.captured(in_use=True)
    node.see(pods, wanted=False)
    assert node.pods.netns == {}


def test_a_pod_that_leaves_before_its_capture_leaves_nothing(node: Node) -> None:
    pods = node.see(pod())
    node.see(pod(), wanted=False)
    assert pods.netns == {}


def test_what_an_earlier_agent_captured_of_a_pod_outside_the_mesh_is_released_in_time(
    node: Node,
) -> None:
    node.pods.adopt("a", NETNS)
    node.see(pod(told=True), wanted=False)
    assert node.pods.lenient == {"a"}
    node.see(pod(), wanted=False)
    node.see(pod(), wanted=False, later=GRACE)
    assert node.pods.due(Action.RELEASE) == {"a"}


def test_what_an_earlier_agent_captured_is_released_though_this_one_could_not_capture_it(
    node: Node,
) -> None:
    node.see(pod(ready=True, told=True))
    node.pods.refuse({"a": "no certificate"})
    pods = node.see(pod(ready=True, told=True), wanted=False)
    assert (pods.redirected, pods.lenient, marked(pods)) == (A, A, NONE)
    node.see(pod(ready=True), wanted=False)
    node.see(pod(ready=True), wanted=False, later=GRACE)
    assert pods.due(Action.RELEASE) == A


def test_a_pod_that_an_earlier_agent_captured_long_ago_is_enforced_at_once(node: Node) -> None:
    node.see(pod(ready=True, told=True))
    capture(node.pods)
    assert (node.pods.redirected, node.pods.lenient) == (A, NONE)


def test_a_pod_that_an_earlier_agent_captured_just_now_has_its_whole_grace_period(
    node: Node,
) -> None:
    node.pods.take_charge({"a"})
    node.see(pod(ready=True, told=True))
    assert node.pods.lenient == A
    capture(node.pods)
    assert (node.pods.joining, node.pods.lenient) == (A, A)
    node.see(pod(ready=True, told=True))
    assert node.see(pod(ready=True, told=True), later=GRACE).lenient == NONE


def test_a_pod_that_leaves_is_captured_and_leaves_also_when_it_is_captured_again(
    node: Node,
) -> None:
    pods = node.leaving()
    capture(pods)
    assert (pods.redirected, marked(pods)) == (A, NONE)
    node.see(pod(ready=True), wanted=False)
    node.see(pod(ready=True), wanted=False, later=GRACE)
    pods.happened("a", PodEvent.UNDONE)
    assert pods.redirected == NONE


def test_another_namespace_of_a_pod_is_captured_anew(node: Node) -> None:
    pods = node.captured(in_use=False)
    pods.see({"a": Path("/run/netns/b")}, pod(), node.now)
    assert pods.due(Action.CAPTURE) == {"a"}


EVENTS = """
               FOUND REPLACED ANNOUNCED USED UNUSED REDIRECTED UNWANTED EXPIRED UNDONE IDLE ENDED
SOUGHT         prep  -        -         -    -      -          gone     -       -      -    gone
PREPARED       -     -        -         use  -      capt       gone     -       -      -    gone
PREPARED_IN_USE -    prep     prep      -    prep   join       gone     -       -      -    gone
JOINING        -     prep     capt      -    -      -          leav     capt    -      -    gone
CAPTURED       -     prep     -         -    -      -          leav     -       -      -    gone
LEAVING        join  prep     -         -    -      -          -        free    -      -    gone
RELEASABLE     join  prep     -         -    -      -          -        -       rel    -    gone
RELEASED       prep  prep     -         -    -      -          -        drain   -      -    gone
DRAINING       prep  prep     -         -    -      -          -        gone    -      gone gone
GONE           -     -        -         -    -      -          -        -       -      -    -
"""
NAMES = {
    "prep": Stage.PREPARED,
    "use": Stage.PREPARED_IN_USE,
    "join": Stage.JOINING,
    "capt": Stage.CAPTURED,
    "leav": Stage.LEAVING,
    "free": Stage.RELEASABLE,
    "rel": Stage.RELEASED,
    "drain": Stage.DRAINING,
    "gone": Stage.GONE,
}


def table() -> dict[tuple[Stage, PodEvent], Stage]:
    """Every stage and event, with the stage that is next."""
    head, *rows = EVENTS.strip().splitlines()
    cells = {
        (Stage[name], PodEvent[event]): NAMES.get(cell, Stage[name])
        for name, *line in map(str.split, rows)
        for event, cell in zip(head.split(), line, strict=True)
    }
    assert cells.keys() == {(stage, event) for stage in Stage for event in PodEvent}
    return cells


def pods_in(stage: Stage) -> Pods:
    """One pod that has come into a stage, by the shortest way."""
    ways: dict[Stage, tuple[PodEvent, ...]] = {Stage.SOUGHT: ()}
    while stage not in ways:
        for here, way in tuple(ways.items()):
            for event, there in LIFE[here].then.items():
                ways.setdefault(there, (*way, event))
    pods = Pods(grace=GRACE)
    pods.see({"a": None}, pod(), 0.0)
    for event in ways[stage]:
        pods.happened("a", event)
    return pods


@pytest.mark.parametrize(("cell", "following"), table().items(), ids=str)
def test_every_event_in_every_stage(cell: tuple[Stage, PodEvent], following: Stage) -> None:
    stage, event = cell
    pods = pods_in(stage)
    record = pods.get("a")
    assert (Stage.GONE if record is None else record.stage) is stage
    pods.happened("a", event)
    record = pods.get("a")
    assert (Stage.GONE if record is None else record.stage) is following


def steps() -> list[tuple[Row, PodEvent, Row]]:
    return [
        (row, event, LIFE[following])
        for row in LIFE.values()
        for event, following in row.then.items()
    ]


def test_what_a_stage_promises_it_keeps() -> None:
    for stage, row in LIFE.items():
        assert row.served or not (row.redirected or row.lenient), stage
        assert row.redirected or not row.marked, stage
        assert not (row.marked and not row.wanted), stage
        assert (row.clock is not None) == (PodEvent.EXPIRED in row.then), stage
        bounded = row.clock and (row.clock.at_most or row.clock.once_marked is None)
        assert bounded or not (row.redirected and row.lenient and row.wanted), stage
        assert PodEvent.ENDED in row.then or stage is Stage.GONE, stage


def test_a_pod_that_is_held_to_the_policy_becomes_lenient_only_by_leaving_the_mesh() -> None:
    for row, event, following in steps():
        if row.redirected and not row.lenient and following.lenient:
            assert event is PodEvent.UNWANTED


def test_rules_stay_until_they_are_undone_or_their_namespace_is_gone() -> None:
    for row, event, following in steps():
        if row.redirected and not following.redirected:
            assert event in {PodEvent.UNDONE, PodEvent.REPLACED, PodEvent.ENDED}


def test_a_pod_in_which_nothing_runs_yet_is_never_lenient(node: Node) -> None:
    announced = {"a": NETNS}
    for told in (False, True, False):
        node.pods.see({"a": NETNS}, pod(ready=True, told=told), node.now, announced=announced)
        assert (node.pods.due(Action.CAPTURE), node.pods.lenient) == (A, NONE)
    capture(node.pods)
    assert (marked(node.pods), node.pods.lenient) == (A, NONE)


def test_a_pod_is_secured_when_it_is_captured_and_its_mark_is_out(node: Node) -> None:
    announced = {"a": NETNS}

    def secured(*, told: bool) -> bool:
        node.pods.see({"a": NETNS}, pod(told=told), node.now, announced=announced)
        record = node.pods.get("a")
        assert record is not None
        return record.is_secured

    assert not secured(told=True)
    capture(node.pods)
    assert not secured(told=False)
    assert secured(told=True)
    node.pods.take_charge(())
    assert not secured(told=True)  # by another agent's Envoy


def test_another_sandbox_than_the_announced_one_may_be_in_use(node: Node) -> None:
    announced = {"a": Path("/run/netns/b")}
    node.pods.see({"a": NETNS}, pod(ready=True), node.now, announced=announced)
    assert node.pods.lenient == A


def test_a_pod_whose_announcement_comes_after_its_capture_is_lenient_no_more(node: Node) -> None:
    pods = node.captured(in_use=True)
    assert pods.lenient == A
    pods.see({"a": NETNS}, pod(ready=True), node.now, announced={"a": NETNS})
    assert (pods.lenient, marked(pods)) == (NONE, A)


def test_a_pod_is_sought_until_its_namespace_is_found(node: Node) -> None:
    node.pods.see({"a": None}, pod(ready=True), node.now)
    assert (node.pods.wanted, node.pods.netns) == (A, {})
    assert not node.pods.due(Action.CAPTURE)
    assert node.see(pod(ready=True)).due(Action.CAPTURE) == A
    node.pods.see({"a": None}, pod(ready=True), node.now)
    assert node.pods.netns == {"a": NETNS}


def late(node: Node, lack: Lack = Lack.CAPTURE) -> dict[str, str]:
    return dict(node.pods.late(lack, node.now))


def test_a_pod_that_is_not_captured_in_time_is_late_with_the_reason(node: Node) -> None:
    node.pods.see({"a": None}, pod(), node.now)
    node.now += UNCAPTURED_SECONDS - 0.1
    node.pods.see({"a": None}, pod(), node.now)
    assert late(node) == {}
    node.now += 0.1
    assert late(node) == {"a": "its network namespace has not been found"}
    node.see(pod())
    assert late(node) == {"a": "Envoy has not taken its listeners yet"}
    node.pods.refuse({"a": "no certificate"})
    assert late(node) == {"a": "no certificate"}
    node.pods.refuse({})
    capture(node.pods)
    node.pods.note_time(node.now)
    assert late(node) == {}


def test_a_captured_pod_whose_configuration_is_refused_is_late_in_time(node: Node) -> None:
    node.captured(in_use=False)
    node.see(pod(told=True))
    node.pods.refuse({"a": "Envoy refused its configuration"})
    node.see(pod(told=True), later=1)
    node.see(pod(told=True), later=UNCAPTURED_SECONDS)
    assert late(node) == {"a": "Envoy refused its configuration"}


def test_a_pod_in_which_nothing_runs_yet_is_never_late(node: Node) -> None:
    for _ in range(2):
        node.now += UNCAPTURED_SECONDS
        node.pods.see({"a": NETNS}, pod(), node.now, announced={"a": NETNS})
    assert late(node) == {}


def test_a_pod_that_is_held_to_the_policy_without_its_mark_is_late_with_that(node: Node) -> None:
    pods = node.captured(in_use=True)
    marked(pods)
    node.see(pod(ready=True))
    node.see(pod(ready=True), later=JOIN_SECONDS)
    assert (late(node, Lack.MARK), pods.lenient) == ({}, NONE)
    node.see(pod(ready=True), later=UNCAPTURED_SECONDS)
    assert late(node, Lack.MARK).keys() == A
    node.see(pod(ready=True, told=True))
    assert late(node, Lack.MARK) == late(node) == {}


class OnePodsLife(RuleBasedStateMachine):
    """Whatever happens in whatever order, no client is turned away for what it couldn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.is_captured = False
        self.told = False
        self.told_since = -1000.0
        self.captured_at = 0.0

    @rule(
        wanted=st.booleans(),
        told=st.booleans(),
        later=st.sampled_from([0.0, 0.5, GRACE, 10.0]),
        envoy_is_quick=st.booleans(),
    )
    def see(self, *, wanted: bool, told: bool, later: float, envoy_is_quick: bool) -> None:
        pods = self.node.pods
        # Only what is announced is ever told, and only its own agent takes that back.
        announced = "a" in marked(pods)
        told = told if announced is not self.told else self.told
        if told is not self.told:
            self.told, self.told_since = told, self.node.now + later
        self.node.see(pod(ready=True, told=self.told), wanted=wanted, later=later)
        if envoy_is_quick:
            if pods.due(Action.CAPTURE):
                capture(pods)
                self.is_captured, self.captured_at = True, self.node.now
            if pods.due(Action.RELEASE):
                pods.happened("a", PodEvent.UNDONE)
                self.is_captured = False

    @invariant()
    def plaintext_passes_for_as_long_as_some_may_still_send_it(self) -> None:
        some_send_plaintext = not self.told or self.node.now < self.told_since + GRACE
        is_in_time = self.node.now < self.captured_at + JOIN_SECONDS
        if self.is_captured and some_send_plaintext and is_in_time:
            assert self.node.pods.lenient

    @invariant()
    def the_tunnel_is_there_for_as_long_as_some_may_still_use_it(self) -> None:
        some_use_the_tunnel = self.told or self.node.now < self.told_since + GRACE
        if some_use_the_tunnel:
            assert "a" in self.node.pods.netns

    @invariant()
    def what_is_captured_has_listeners(self) -> None:
        if self.is_captured:
            assert "a" in self.node.pods.netns


TestOnePodsLife = OnePodsLife.TestCase
