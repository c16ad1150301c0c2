"""Whatever happens in whatever order, no client sends plaintext to a port that refuses it."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from troth.agent.configuration import Changeovers
from troth.identity.spiffe import TrustDomain
from troth.mesh.changeover import PATIENCE_SECONDS
from troth.mesh.model import NO_PORTS, ContainerPort, Pod, Ports
from troth.mesh.view import NodeView, ViewKeeper, node_view
from troth.mesh.world import World
from troth.policy.model import Mode, PeerAuthentication
from troth.table import Table

modes = st.sampled_from([Mode.DISABLE, Mode.STRICT, Mode.PERMISSIVE])
port_modes: st.SearchStrategy[dict[int, Mode]] = st.just({}) | st.dictionaries(
    st.sampled_from([8080, 9090]), modes, max_size=2
)
LABELS = ({"app": "web"}, {"app": "other"})
SERVER = Pod(
    uid="1",
    namespace="shop",
    name="web",
    labels=LABELS[0],
    addresses=("10.0.0.1",),
    ports=(ContainerPort(number=8080),),
    captured=True,
)


def all_in(mode: Mode) -> PeerAuthentication:
    return PeerAuthentication(namespace="shop", name="all", selector={"app": "web"}, mode=mode)


class Node(RuleBasedStateMachine):
    """A server on its node, with clients beside it, and clients on one other node.

    Envoy may have any of what it was told since it last had all in force. The other node hears of
    policies and of the pod apart, and late.
    """

    @initialize(alone=st.booleans(), offered=st.sampled_from([NO_PORTS, Ports(usual=True)]))
    def begin(self, *, alone: bool, offered: Ports) -> None:
        self.alone = alone
        # Left by an earlier agent, whose Envoy did take it, as the policy said.
        self.pod = msgspec.structs.replace(SERVER, plaintext=NO_PORTS if alone else offered)
        disabled = (all_in(Mode.DISABLE),)
        self.policies: tuple[PeerAuthentication, ...] = disabled if self.pod.plaintext else ()
        self.lenient = False
        self.now = 0.0
        self.changeovers = Changeovers(alone=alone)
        self.views = ViewKeeper()
        self.takes: list[Ports] = []
        self.sends: list[Ports] = []
        self.seen_policies = tuple[PeerAuthentication, ...](self.policies)
        self.seen_pod = self.pod
        self.push(paced=False)

    @rule(mode=modes, ports=port_modes, tell=st.booleans())
    def change_policies(self, *, mode: Mode, ports: dict[int, Mode], tell: bool) -> None:
        # What its node no longer offers is heard before policies have changed there and back.
        seen = self.seen_pod.plaintext & self.pod.plaintext
        self.seen_pod = msgspec.structs.replace(self.seen_pod, plaintext=seen)
        every = PeerAuthentication(
            namespace="shop", name="all", selector={"app": "web"}, mode=mode, port_modes=ports
        )
        other = PeerAuthentication(namespace="shop", name="default", mode=Mode.STRICT)
        self.policies = (every, other)
        if tell:
            self.push(paced=False)
            self.have_all_in_force()
            self.push(paced=False)

    @rule(labels=st.sampled_from(LABELS))
    def label(self, labels: dict[str, str]) -> None:
        if self.alone:  # other nodes only have time to hear of it, of which there is none here
            self.pod = msgspec.structs.replace(self.pod, labels=labels)

    @rule(paced=st.booleans())
    def push(self, *, paced: bool) -> None:
        """Tell Envoy; but of destinations not if they are to wait for a pause."""
        self.tell(paced=paced)
        self.every_client_is_served()

    def tell(self, *, paced: bool) -> None:
        world = self.world(self.policies, self.pod)
        view = self.views.update(world, netns={"1": "/n"}, lenient={"1"} if self.lenient else ())
        self.changeovers.step(view, self.policies, now=self.now)
        self.takes.append(self.changeovers.held("1", view.local_pods["1"]).plaintext)
        if not paced or not self.sends:
            self.told = self.changeovers.reached(view.destinations)
        self.changeovers.told(self.told)
        self.sends.append(self.told["1"].plaintext)
        self.view: NodeView = view

    @rule()
    def have_all_in_force(self) -> None:
        self.takes, self.sends = self.takes[-1:], self.sends[-1:]
        self.changeovers.confirm()

    @rule()
    def offer(self) -> None:
        if not self.alone:
            plaintext = self.changeovers.offers.get("1", NO_PORTS)
            self.pod = msgspec.structs.replace(self.pod, plaintext=plaintext)

    @rule()
    def other_node_hears_of_policies(self) -> None:
        self.seen_policies = tuple[PeerAuthentication, ...](self.policies)

    @rule()
    def other_node_hears_of_the_pod(self) -> None:
        self.seen_pod = self.pod

    @rule()
    def hear_from_the_other_node(self) -> None:
        if self.seen_policies == self.policies:
            self.changeovers.hear(self.seen_policies)

    @invariant()
    def every_client_is_served(self) -> None:
        everywhere = [*self.sends]
        if not self.alone:
            elsewhere = node_view(self.world(self.seen_policies, self.seen_pod), netns={})
            everywhere.append(elsewhere.destinations["1"].plaintext)
        for takes in self.takes:
            for sends in everywhere:
                assert not sends & ~takes

    @rule()
    def all_is_as_wanted_in_the_end(self) -> None:
        for _ in range(3):
            self.push(paced=False)
            self.have_all_in_force()
            self.offer()
            self.other_node_hears_of_policies()
            self.other_node_hears_of_the_pod()
            self.hear_from_the_other_node()
        self.push(paced=False)
        assert self.takes[-1] == self.view.local_pods["1"].plaintext
        assert self.sends[-1] == self.view.destinations["1"].plaintext
        assert self.changeovers.until is None
        assert not self.changeovers.waiting
        self.have_all_in_force()
        assert not self.changeovers.goes_on

    @rule()
    def nobody_is_waited_for_for_ever(self) -> None:
        self.push(paced=False)
        self.now += PATIENCE_SECONDS
        self.tell(paced=False)
        assert self.takes[-1] == self.view.local_pods["1"].plaintext
        # Whoever hasn't moved by then is refused. From here on all have.
        self.other_node_hears_of_policies()
        self.have_all_in_force()
        self.push(paced=False)
        self.have_all_in_force()
        self.offer()
        self.other_node_hears_of_the_pod()

    def world(self, policies: tuple[PeerAuthentication, ...], pod: Pod) -> World:
        return World(
            trust_domain=TrustDomain.parse("cluster.local"), pods={"1": pod}, policies=policies
        )


Node.TestCase.settings = settings(stateful_step_count=30)
TestNode = Node.TestCase


def taken(changeovers: Changeovers, mode: Mode, plaintext: Ports) -> Ports:
    """What the server takes in plaintext after a step; its annotation says ``plaintext``."""
    world = World(
        trust_domain=TrustDomain.parse("cluster.local"),
        pods={"1": msgspec.structs.replace(SERVER, plaintext=plaintext)},
        policies=(all_in(mode),),
    )
    view = node_view(world, netns={"1": "/n"})
    changeovers.step(view, world.policies, now=0.0)
    # All is in force at once.
    changeovers.told(Table(changeovers.reached(Table(view.destinations))))
    changeovers.confirm()
    return changeovers.held("1", view.local_pods["1"]).plaintext


EVERYWHERE = Ports(usual=True)


def test_an_annotation_opens_nothing_that_the_policy_closes_when_an_agent_starts() -> None:
    changeovers = Changeovers(alone=False)
    assert taken(changeovers, Mode.STRICT, EVERYWHERE) == NO_PORTS
    assert changeovers.until is None


def test_an_annotation_that_no_agent_has_written_keeps_nothing_open() -> None:
    changeovers = Changeovers(alone=False)
    assert taken(changeovers, Mode.PERMISSIVE, EVERYWHERE) == EVERYWHERE
    assert taken(changeovers, Mode.STRICT, EVERYWHERE) == NO_PORTS
    assert taken(changeovers, Mode.STRICT, NO_PORTS) == NO_PORTS
    assert taken(changeovers, Mode.STRICT, EVERYWHERE) == NO_PORTS


def test_what_was_offered_under_disable_stays_open_until_others_have_moved() -> None:
    changeovers = Changeovers(alone=False)
    assert taken(changeovers, Mode.DISABLE, EVERYWHERE) == EVERYWHERE
    assert taken(changeovers, Mode.STRICT, EVERYWHERE) == EVERYWHERE
    assert changeovers.until == PATIENCE_SECONDS
    assert changeovers.waiting == {"1"}
