from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from troth.agent.enrolment import DRAIN_SECONDS, LATE_SECONDS, Enrolment
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


class Node:
    """An `Enrolment` of one pod, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.enrolment = Enrolment(grace=GRACE)

    def see(self, pods: dict[str, Pod], *, wanted: bool = True, later: float = 0.0) -> Enrolment:
        self.now += later
        self.enrolment.want({"a": NETNS} if wanted else {}, pods, self.now)
        return self.enrolment

    def captured(self, *, in_use: bool) -> Enrolment:
        enrolment = self.see(pod(ready=in_use))
        enrolment.captured("a")
        return enrolment

    def leaving(self) -> Enrolment:
        self.captured(in_use=False)
        self.see(pod(ready=True, told=True))
        return self.see(pod(ready=True, told=True), wanted=False)

    def draining(self) -> Enrolment:
        enrolment = self.leaving()
        self.see(pod(ready=True), wanted=False)
        self.see(pod(ready=True), wanted=False, later=GRACE)
        enrolment.released("a")
        return self.see(pod(ready=True), wanted=False)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_pod_that_was_never_ready_is_enforced_from_its_first_connection(node: Node) -> None:
    enrolment = node.see(pod())
    assert (enrolment.to_capture, enrolment.lenient) == (A, NONE)
    enrolment.captured("a")
    assert (enrolment.announced, enrolment.lenient) == (A, NONE)
    node.see(pod(ready=True))
    assert not enrolment.lenient


def test_a_pod_in_use_takes_plaintext_until_its_announcement_has_been_out_for_the_grace_period(
    node: Node,
) -> None:
    enrolment = node.see(pod(ready=True))
    assert enrolment.lenient  # before its capture, so that Envoy knows in time
    assert not enrolment.announced
    enrolment.captured("a")
    assert enrolment.announced == {"a"}
    node.see(pod(ready=True), later=1000 * GRACE)
    assert enrolment.lenient  # nobody has been told yet
    assert enrolment.next_change is None
    node.see(pod(ready=True, told=True))
    assert enrolment.next_change == node.now + GRACE
    node.see(pod(ready=True, told=True), later=GRACE - 0.1)
    assert enrolment.lenient
    node.see(pod(ready=True, told=True), later=0.1)
    assert (enrolment.announced, enrolment.lenient) == (A, NONE)
    assert enrolment.next_change is None


def test_a_pod_joins_while_it_takes_plaintext_and_leaves_without_joining(node: Node) -> None:
    enrolment = node.see(pod(ready=True))
    assert (enrolment.joining, enrolment.redirected) == (A, NONE)
    enrolment.captured("a")
    node.see(pod(ready=True, told=True))
    assert (enrolment.joining, enrolment.redirected) == (A, A)
    node.see(pod(ready=True, told=True), later=GRACE)
    assert (enrolment.joining, enrolment.redirected) == (NONE, A)
    node.see(pod(ready=True, told=True), wanted=False)
    assert (enrolment.lenient, enrolment.joining, enrolment.redirected) == (A, NONE, A)
    enrolment.released("a")
    assert (enrolment.joining, enrolment.redirected) == (NONE, NONE)


def test_an_announcement_that_somebody_takes_back_starts_the_grace_period_anew(node: Node) -> None:
    enrolment = node.captured(in_use=True)
    node.see(pod(ready=True, told=True))
    node.see(pod(ready=True), later=GRACE / 2)
    node.see(pod(ready=True, told=True), later=GRACE)
    assert enrolment.lenient
    node.see(pod(ready=True, told=True), later=GRACE)
    assert not enrolment.lenient


def test_taking_the_announcement_of_an_enforced_pod_back_makes_it_no_laxer(node: Node) -> None:
    enrolment = node.captured(in_use=False)
    node.see(pod(ready=True, told=True))
    node.see(pod(ready=True), later=GRACE)
    assert (enrolment.announced, enrolment.lenient) == (A, NONE)


def test_without_a_grace_period_the_announcement_is_enough() -> None:
    enrolment = Enrolment(grace=0)
    enrolment.want({"a": NETNS}, pod(ready=True), 100.0)
    enrolment.captured("a")
    enrolment.want({"a": NETNS}, pod(ready=True, told=True), 100.0)
    assert not enrolment.lenient


def test_an_announced_pod_of_an_earlier_agent_is_enforced_at_once(node: Node) -> None:
    enrolment = node.see(pod(ready=True, told=True))
    assert (enrolment.to_capture, enrolment.lenient) == (A, NONE)


def test_a_pod_that_leaves_takes_plaintext_at_once_and_stays_captured_until_all_know(
    node: Node,
) -> None:
    enrolment = node.leaving()
    assert (enrolment.announced, enrolment.lenient) == (NONE, A)
    node.see(pod(told=True), wanted=False, later=1000 * GRACE)
    assert not enrolment.to_release(node.now)
    node.see(pod(), wanted=False)
    node.see(pod(), wanted=False, later=GRACE - 0.1)
    assert not enrolment.to_release(node.now)
    assert enrolment.to_release(node.now + 0.1) == {"a"}


def test_a_released_pod_keeps_its_listeners_for_its_last_connections(node: Node) -> None:
    enrolment = node.draining()
    assert enrolment.draining == set(enrolment.netns) == enrolment.lenient == {"a"}
    enrolment.forget("a")
    assert enrolment.netns == {}


def test_a_released_pod_is_served_until_nobody_comes_late(node: Node) -> None:
    enrolment = node.draining()
    assert not enrolment.awaiting_nobody(node.now + LATE_SECONDS - 1)
    assert enrolment.awaiting_nobody(node.now + LATE_SECONDS) == {"a"}


def test_a_connection_that_never_ends_keeps_the_listeners_for_a_limited_time(node: Node) -> None:
    enrolment = node.draining()
    assert not enrolment.drained(node.now + DRAIN_SECONDS - 1)
    assert enrolment.drained(node.now + DRAIN_SECONDS) == {"a"}


def test_a_pod_that_leaves_and_comes_back_is_not_captured_twice(node: Node) -> None:
    enrolment = node.leaving()
    node.see(pod(ready=True, told=True))
    assert (enrolment.announced, enrolment.to_capture) == (A, NONE)
    assert enrolment.lenient
    node.see(pod(ready=True, told=True), later=GRACE)
    assert not enrolment.lenient


def test_a_released_pod_that_comes_back_is_captured_again_as_one_in_use(node: Node) -> None:
    enrolment = node.draining()
    node.see(pod(ready=True))
    assert enrolment.to_capture == enrolment.lenient == {"a"}


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param({}, id="deleted"),
        pytest.param(pod(phase=PodPhase.SUCCEEDED), id="completed"),
        pytest.param(pod(addresses=()), id="its address given to another"),
    ],
)
def test_a_pod_that_has_ended_is_let_go_at_once(node: Node, pods: dict[str, Pod]) -> None:
    enrolment = node.captured(in_use=True)
    node.see(pods, wanted=False)
    assert enrolment.netns == {}


def test_a_pod_that_leaves_before_its_capture_leaves_nothing(node: Node) -> None:
    enrolment = node.see(pod())
    node.see(pod(), wanted=False)
    assert enrolment.netns == {}


def test_what_an_earlier_agent_captured_of_a_pod_outside_the_mesh_is_released_in_time(
    node: Node,
) -> None:
    node.enrolment.adopt("a", NETNS)
    node.see(pod(told=True), wanted=False)
    assert node.enrolment.lenient == {"a"}
    node.see(pod(), wanted=False)
    assert node.enrolment.to_release(node.now + GRACE) == {"a"}


def test_a_pod_that_an_earlier_agent_captured_long_ago_is_enforced_at_once(node: Node) -> None:
    node.see(pod(ready=True, told=True))
    node.enrolment.captured("a")
    assert (node.enrolment.redirected, node.enrolment.lenient) == (A, NONE)


def test_a_pod_that_an_earlier_agent_captured_just_now_has_its_whole_grace_period(
    node: Node,
) -> None:
    node.enrolment.inherit({"a"})
    node.see(pod(ready=True, told=True))
    assert node.enrolment.lenient == A
    node.enrolment.captured("a")
    assert (node.enrolment.joining, node.enrolment.lenient) == (A, A)
    node.see(pod(ready=True, told=True))
    assert node.see(pod(ready=True, told=True), later=GRACE).lenient == NONE


def test_a_pod_that_leaves_is_captured_and_leaves_also_when_it_is_captured_again(
    node: Node,
) -> None:
    enrolment = node.leaving()
    enrolment.captured("a")
    assert (enrolment.redirected, enrolment.announced) == (A, NONE)
    enrolment.released("a")
    assert enrolment.redirected == NONE


def test_another_namespace_of_a_pod_is_captured_anew(node: Node) -> None:
    enrolment = node.captured(in_use=False)
    enrolment.want({"a": Path("/run/netns/b")}, pod(), node.now)
    assert enrolment.to_capture == {"a"}


class OnePodsLife(RuleBasedStateMachine):
    """Whatever happens in whatever order, no client is turned away for what it couldn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.is_captured = False
        self.told = False
        self.told_since = -1000.0

    @rule(
        wanted=st.booleans(),
        told=st.booleans(),
        later=st.sampled_from([0.0, 0.5, GRACE, 10.0]),
        envoy_is_quick=st.booleans(),
    )
    def see(self, *, wanted: bool, told: bool, later: float, envoy_is_quick: bool) -> None:
        enrolment = self.node.enrolment
        # Only what is announced is ever told, and only its own agent takes that back.
        announced = "a" in enrolment.announced
        told = told if announced is not self.told else self.told
        if told is not self.told:
            self.told, self.told_since = told, self.node.now + later
        self.node.see(pod(ready=True, told=self.told), wanted=wanted, later=later)
        if envoy_is_quick:
            if enrolment.to_capture:
                enrolment.captured("a")
                self.is_captured = True
            if enrolment.to_release(self.node.now):
                enrolment.released("a")
                self.is_captured = False

    @invariant()
    def plaintext_passes_for_as_long_as_some_may_still_send_it(self) -> None:
        some_send_plaintext = not self.told or self.node.now < self.told_since + GRACE
        if self.is_captured and some_send_plaintext:
            assert self.node.enrolment.lenient

    @invariant()
    def the_tunnel_is_there_for_as_long_as_some_may_still_use_it(self) -> None:
        some_use_the_tunnel = self.told or self.node.now < self.told_since + GRACE
        if some_use_the_tunnel:
            assert "a" in self.node.enrolment.netns

    @invariant()
    def what_is_captured_has_listeners(self) -> None:
        if self.is_captured:
            assert "a" in self.node.enrolment.netns


TestOnePodsLife = OnePodsLife.TestCase
