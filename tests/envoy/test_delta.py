from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from troth.envoy.delta import DeltaStream, Reaction
from troth.envoy.snapshot import CLUSTER, ENDPOINTS, LISTENER, SECRET, Snapshot, XdsResource

INTERNAL = 13


def cluster(name: str, content: str = "") -> XdsResource:
    return XdsResource.of(name, cluster_pb2.Cluster(name=name, alt_stat_name=content))


def listener(name: str, content: str = "") -> XdsResource:
    return XdsResource.of(name, listener_pb2.Listener(name=name, stat_prefix=content))


def endpoints(name: str) -> XdsResource:
    return XdsResource.of(name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name))


def secret(name: str, content: str = "") -> XdsResource:
    chain = secret_pb2.Secret(name=name)
    chain.tls_certificate.certificate_chain.inline_string = content
    return XdsResource.of(name, chain)


def subscribe(type_url: str, *names: str, held: dict[str, str] | None = None) -> Any:
    return discovery_pb2.DeltaDiscoveryRequest(
        type_url=type_url, resource_names_subscribe=names, initial_resource_versions=held or {}
    )


def unsubscribe(type_url: str, *names: str) -> Any:
    return discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_unsubscribe=names)


def answer(response: Any, error: str = "") -> Any:
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=response.type_url, response_nonce=response.nonce
    )
    if error:
        request.error_detail.code = INTERNAL
        request.error_detail.message = error
    return request


def gist(response: Any) -> tuple[str, list[str], list[str]]:
    """Short type, names sent, names removed."""
    return (
        response.type_url.rpartition(".")[2],
        [resource.name for resource in response.resources],
        list(response.removed_resources),
    )


def gists(reaction: Reaction | tuple[Any, ...]) -> list[tuple[str, list[str], list[str]]]:
    responses = reaction.responses if isinstance(reaction, Reaction) else reaction
    return [gist(response) for response in responses]


def settle(stream: DeltaStream, reaction: Reaction | tuple[Any, ...]) -> None:
    for response in reaction.responses if isinstance(reaction, Reaction) else reaction:
        stream.receive(answer(response))


def connected(snapshot: Snapshot, *requests: Any) -> DeltaStream:
    """A stream that has ACKed the answers to ``requests``."""
    stream = DeltaStream(snapshot)
    for request in requests:
        settle(stream, stream.receive(request))
    return stream


def test_a_version_is_of_the_content_alone() -> None:
    assert cluster("a", "x").version == cluster("a", "x").version
    assert cluster("a", "x").version != cluster("a", "y").version


def test_a_secret_is_not_shown_by_repr() -> None:
    assert "PRIVATE" not in repr(Snapshot.of([secret("s", "PRIVATE")]))


def test_two_resources_of_one_name_and_type_are_refused() -> None:
    with pytest.raises(ValueError, match="two of"):
        Snapshot.of([cluster("a"), cluster("a", "x")])
    assert Snapshot.of([cluster("a"), listener("a")]).of_type(CLUSTER).keys() == {"a"}


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER], ids=["clusters", "listeners"])
@pytest.mark.parametrize("names", [(), ("*",)], ids=["legacy", "explicit"])
def test_a_wildcard_subscription_gets_all(type_url: str, names: tuple[str, ...]) -> None:
    stream = DeltaStream(Snapshot.of([cluster("a"), cluster("b"), listener("a"), listener("b")]))
    ((_, sent, removed),) = gists(stream.receive(subscribe(type_url, *names)))
    assert (sent, removed) == (["a", "b"], [])


def test_a_later_request_without_names_is_no_wildcard() -> None:
    stream = connected(Snapshot.of([cluster("a"), cluster("b")]), subscribe(CLUSTER, "a"))
    assert stream.acked(CLUSTER).keys() == {"a"}
    assert stream.update(Snapshot.of([cluster("a"), cluster("b", "new")])) == ()


@pytest.mark.parametrize("type_url", [SECRET, ENDPOINTS], ids=["secrets", "endpoints"])
@pytest.mark.parametrize("names", [(), ("*",)], ids=["legacy", "explicit"])
def test_there_is_no_wildcard_for_what_is_asked_for_by_name(
    type_url: str, names: tuple[str, ...]
) -> None:
    stream = DeltaStream(Snapshot.of([secret("a"), endpoints("a")]))
    assert gists(stream.receive(subscribe(type_url, *names))) == []
    assert stream.update(Snapshot.of([secret("b"), endpoints("b")])) == ()


def test_an_empty_wildcard_is_answered_so_that_envoy_goes_on() -> None:
    stream = DeltaStream(Snapshot())
    assert gists(stream.receive(subscribe(CLUSTER))) == [("Cluster", [], [])]


def test_only_named_secrets_are_sent_each_by_itself() -> None:
    stream = DeltaStream(Snapshot.of([secret("a"), secret("b"), secret("c")]))
    reaction = stream.receive(subscribe(SECRET, "b", "a"))
    assert gists(reaction) == [("Secret", ["a"], []), ("Secret", ["b"], [])]


def test_a_missing_secret_is_waited_for_and_other_missing_things_are_not() -> None:
    stream = DeltaStream(Snapshot())
    assert gists(stream.receive(subscribe(SECRET, "s"))) == []
    assert gists(stream.receive(subscribe(ENDPOINTS, "e"))) == [
        ("ClusterLoadAssignment", [], ["e"])
    ]
    assert gists(stream.update(Snapshot.of([secret("s")]))) == [("Secret", ["s"], [])]


def test_an_update_sends_only_what_differs() -> None:
    stream = connected(Snapshot.of([cluster("a"), cluster("b")]), subscribe(CLUSTER))
    update = stream.update(Snapshot.of([cluster("a", "new"), cluster("b"), cluster("c")]))
    assert gists(update) == [("Cluster", ["a", "c"], [])]
    assert stream.update(Snapshot.of([cluster("a", "new"), cluster("b"), cluster("c")])) == ()


def test_what_is_referred_to_comes_first_and_goes_last() -> None:
    old = Snapshot.of([cluster("old"), endpoints("old"), secret("old"), listener("old")])
    new = Snapshot.of([cluster("new"), endpoints("new"), secret("new"), listener("new")])
    stream = connected(
        old,
        subscribe(CLUSTER),
        subscribe(LISTENER),
        subscribe(ENDPOINTS, "old", "new"),
        subscribe(SECRET, "old", "new"),
    )
    assert gists(stream.update(new)) == [
        ("Cluster", ["new"], []),
        ("ClusterLoadAssignment", ["new"], []),
        ("Secret", ["new"], []),
        ("Listener", ["new"], ["old"]),
        ("ClusterLoadAssignment", [], ["old"]),
        ("Cluster", [], ["old"]),
    ]


def test_a_reconnect_sends_only_what_differs() -> None:
    held = {"same": cluster("same").version, "changed": "0" * 32, "gone": "1" * 32}
    stream = DeltaStream(Snapshot.of([cluster("same"), cluster("changed"), cluster("added")]))
    reaction = stream.receive(subscribe(CLUSTER, held=held))
    assert gists(reaction) == [("Cluster", ["added", "changed"], ["gone"])]


def test_a_reconnect_with_nothing_new_sends_nothing() -> None:
    stream = DeltaStream(Snapshot.of([cluster("a"), secret("s", "x")]))
    assert gists(stream.receive(subscribe(CLUSTER, held={"a": cluster("a").version}))) == []
    held = {"s": secret("s", "x").version}
    assert gists(stream.receive(subscribe(SECRET, "s", held=held))) == []
    assert stream.settled
    assert stream.type_status(SECRET).acked == 1


def test_a_name_that_is_asked_for_again_is_sent_again() -> None:
    stream = connected(Snapshot.of([secret("s")]), subscribe(SECRET, "s"))
    assert gists(stream.receive(subscribe(SECRET, "s"))) == [("Secret", ["s"], [])]


def test_what_is_unsubscribed_is_no_longer_sent() -> None:
    stream = connected(Snapshot.of([secret("s")]), subscribe(SECRET, "s"))
    assert gists(stream.receive(unsubscribe(SECRET, "s"))) == []
    assert stream.update(Snapshot.of([secret("s", "new")])) == ()
    assert gists(stream.receive(subscribe(SECRET, "s"))) == [("Secret", ["s"], [])]


def test_an_ack_counts_for_the_version_that_it_answers() -> None:
    stream = connected(Snapshot.of([cluster("a")]), subscribe(CLUSTER))
    (first,) = stream.update(Snapshot.of([cluster("a", "1")]))
    (second,) = stream.update(Snapshot.of([cluster("a", "2")]))
    stream.receive(answer(first))
    assert stream.acked(CLUSTER) == {"a": cluster("a", "1").version}
    assert not stream.settled
    stream.receive(answer(second))
    assert stream.acked(CLUSTER) == {"a": cluster("a", "2").version}
    assert stream.settled


def test_what_envoy_has_removed_it_no_longer_has() -> None:
    stream = connected(Snapshot.of([cluster("a")]), subscribe(CLUSTER))
    (response,) = stream.update(Snapshot())
    assert stream.acked(CLUSTER).keys() == {"a"}
    assert stream.receive(answer(response)).acked == ("a",)
    assert stream.acked(CLUSTER) == {}


def test_an_answer_to_an_unknown_nonce_says_nothing() -> None:
    stream = DeltaStream(Snapshot.of([cluster("a")]))
    (response,) = stream.receive(subscribe(CLUSTER)).responses
    response.nonce = "other"
    reaction = stream.receive(answer(response))
    assert (reaction.acked, reaction.nacks, stream.settled) == ((), (), False)


def test_a_nack_is_for_the_resources_it_names_and_an_ack_for_the_rest() -> None:
    stream = DeltaStream(Snapshot.of([listener("bad"), listener("good")]))
    (response,) = stream.receive(subscribe(LISTENER)).responses
    reaction = stream.receive(
        answer(response, "Error adding/updating listener(s) bad: no filter chains specified\n")
    )
    assert reaction.acked == ("good",)
    (nack,) = reaction.nacks
    assert (nack.name, nack.version) == ("bad", listener("bad").version)
    assert nack.message == "no filter chains specified"
    assert stream.nacks == (nack,)
    assert stream.settled


def test_a_nacked_resource_is_sent_again_when_it_has_changed_and_not_before() -> None:
    stream = DeltaStream(Snapshot.of([listener("a")]))
    (response,) = stream.receive(subscribe(LISTENER)).responses
    stream.receive(answer(response, "no"))
    assert stream.update(Snapshot.of([listener("a"), cluster("other")])) == ()
    assert len(stream.nacks) == 1
    (response,) = stream.update(Snapshot.of([listener("a", "mended")]))
    settle(stream, (response,))
    assert not stream.nacks


def test_only_what_was_nacked_is_tried_again_and_only_until_it_is_taken() -> None:
    stream = connected(Snapshot(), subscribe(LISTENER))
    (response,) = stream.update(Snapshot.of([listener("a"), listener("b")]))
    stream.receive(answer(response, "Error adding/updating listener(s) a: port in use"))
    tried = stream.retry()
    assert gists(tried) == [("Listener", ["a"], [])]
    settle(stream, tried)
    assert stream.nacks == ()
    assert stream.retry() == ()


def test_a_nack_that_is_overtaken_by_a_newer_push_does_not_stay() -> None:
    stream = connected(Snapshot.of([listener("a")]), subscribe(LISTENER))
    (bad,) = stream.update(Snapshot.of([listener("a", "bad")]))
    (good,) = stream.update(Snapshot.of([listener("a", "good")]))
    assert len(stream.receive(answer(bad, "no")).nacks) == 1
    stream.receive(answer(good))
    assert not stream.nacks


def test_a_nacked_resource_that_goes_away_is_forgotten() -> None:
    stream = DeltaStream(Snapshot.of([listener("a")]))
    (response,) = stream.receive(subscribe(LISTENER)).responses
    stream.receive(answer(response, "no"))
    assert gists(stream.update(Snapshot())) == [("Listener", [], ["a"])]
    assert not stream.nacks


def test_a_nacked_secret_that_goes_away_is_no_longer_held_against_the_snapshot() -> None:
    stream = DeltaStream(Snapshot.of([secret("s")]))
    (response,) = stream.receive(subscribe(SECRET, "s")).responses
    stream.receive(answer(response, "Failed to load certificate chain from <inline>"))
    assert len(stream.nacks) == 1
    assert stream.update(Snapshot()) == ()
    assert not stream.nacks
    assert stream.update(Snapshot.of([secret("s")])) == ()  # the same is still refused
    assert len(stream.nacks) == 1


def test_nothing_is_settled_before_envoy_has_asked_for_listeners() -> None:
    snapshot = Snapshot.of([cluster("a"), listener("a")])
    stream = connected(snapshot, subscribe(CLUSTER))
    assert not stream.settled
    settle(stream, stream.receive(subscribe(LISTENER)))
    assert stream.settled


def test_a_type_is_counted() -> None:
    snapshot = Snapshot.of([secret("a"), secret("b"), secret("c")])
    stream = DeltaStream(snapshot)
    first, second = stream.receive(subscribe(SECRET, "a", "b")).responses
    stream.receive(answer(first))
    stream.receive(answer(second, "Failed to load certificate chain from <inline>"))
    status = stream.type_status(SECRET)
    assert (status.wanted, status.subscribed, status.acked, status.nacked) == (3, 2, 1, 1)


NAMES = ("a", "b", "c")
MAKERS = {CLUSTER: cluster, LISTENER: listener, SECRET: secret}
SNAPSHOTS = st.lists(
    st.tuples(st.sampled_from(sorted(MAKERS)), st.sampled_from(NAMES), st.sampled_from("xyz")),
    unique_by=lambda item: item[:2],
).map(lambda items: Snapshot.of(MAKERS[kind](name, content) for kind, name, content in items))


class Client(RuleBasedStateMachine):
    """An Envoy that takes, refuses, reconnects and changes its mind in any order.

    Once all is answered it must hold the server's snapshot: of clusters and listeners all, of
    secrets those it names and that exist. What it refused it must hold in an older version or not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = Snapshot()
        self.held: dict[str, dict[str, str]] = {kind: {} for kind in MAKERS}
        self.secrets: set[str] = set()
        self.refused: set[tuple[str, str, str]] = set()
        self.inbox: list[Any] = []
        self.connect()

    def connect(self) -> None:
        self.server = DeltaStream(self.snapshot)
        self.inbox = []
        self.refused = set()
        for kind in (CLUSTER, LISTENER):
            self.request(subscribe(kind, held=self.held[kind]))
        if self.secrets:
            held = {n: v for n, v in self.held[SECRET].items() if n in self.secrets}
            self.request(subscribe(SECRET, *sorted(self.secrets), held=held))

    def request(self, request: Any) -> None:
        self.inbox += self.server.receive(request).responses

    @rule(snapshot=SNAPSHOTS)
    def update(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.inbox += self.server.update(snapshot)

    @rule()
    def reconnect(self) -> None:
        self.connect()

    @rule(name=st.sampled_from(NAMES))
    def name_secret(self, name: str) -> None:
        if name not in self.secrets:
            self.secrets.add(name)
            self.request(subscribe(SECRET, name))

    @rule(name=st.sampled_from(NAMES))
    def drop_secret(self, name: str) -> None:
        if name in self.secrets:
            self.secrets.remove(name)
            self.held[SECRET].pop(name, None)
            self.request(unsubscribe(SECRET, name))

    @precondition(lambda self: self.inbox)
    @rule(bad=st.sets(st.sampled_from(NAMES)))
    def take(self, bad: set[str]) -> None:
        response = self.inbox.pop(0)
        kind = response.type_url
        refused = []
        for resource in response.resources:
            if kind == SECRET and resource.name not in self.secrets:
                continue
            if resource.name in bad:
                refused.append(resource.name)
                self.refused.add((kind, resource.name, resource.version))
            else:
                self.held[kind][resource.name] = resource.version
        for name in response.removed_resources:
            self.held[kind].pop(name, None)
        text = "".join(f"{name}: no\n" for name in refused)
        error = f"Error adding/updating listener(s) {text}" if text else ""
        self.request(answer(response, error))

    @invariant()
    def an_answered_client_holds_the_snapshot(self) -> None:
        if self.inbox:
            return
        assert self.server.settled
        for kind in MAKERS:
            wanted = {
                resource.name: resource.version
                for resource in self.snapshot.of_type(kind).values()
                if kind != SECRET or resource.name in self.secrets
            }
            refused = {
                name
                for k, name, version in self.refused
                if wanted.get(name) == version and k == kind
            }
            assert {n: v for n, v in wanted.items() if n not in refused} == {
                n: v for n, v in self.held[kind].items() if n in wanted and n not in refused
            }
            if kind != SECRET:
                assert self.held[kind].keys() <= wanted.keys()
            assert {nack.name for nack in self.server.nacks if nack.type_url == kind} <= refused


TestClient = Client.TestCase
