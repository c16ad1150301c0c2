"""What a review of one namespace tells of others, and which reviews have their turn."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.samples import connection

from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Namespace, Pod, Service
from troth.mesh.world import World
from troth.policy.model import Mode, PeerAuthentication
from troth.reviews.limits import (
    MOST_OF_NAMESPACE,
    Asked,
    concerns,
    connections_of,
    next_turns,
    that_fit,
    totals_of,
    world_of,
)
from troth.reviews.objects import ReviewMetadata
from troth.reviews.responder import read_asked
from troth.traffic.connection import Party
from troth.traffic.tally import Tally


def party(pod: str | None) -> Party:
    workload = pod and pod.rpartition("-")[0]
    return Party(address="10.0.0.1", port=80, pod=pod, workload=workload)


@pytest.mark.parametrize(
    ("source", "destination", "told"),
    [
        pytest.param("shop/web-0", "shop/api-0", True, id="within it"),
        pytest.param("shop/web-0", "bank/api-0", True, id="from it"),
        pytest.param("bank/web-0", "shop/api-0", True, id="to it"),
        pytest.param("shop/web-0", None, True, id="from it to an address"),
        pytest.param("bank/web-0", "bank/api-0", False, id="within another"),
        pytest.param("shop-2/web-0", "bank/api-0", False, id="one whose name begins alike"),
        pytest.param(None, None, False, id="between strangers"),
    ],
)
def test_a_connection_is_told_to_the_namespaces_of_its_ends(
    source: str | None, destination: str | None, *, told: bool
) -> None:
    seen = connection(source=party(source), destination=party(destination))
    assert concerns(seen, "shop") is told
    assert bool(connections_of("shop", [seen])) is told
    tally = Tally(seen.time)
    tally.add(seen)
    assert bool(totals_of("shop", tally.totals())) is told


names = st.sampled_from(["shop/web-0", "bank/vault-0", "bank/till-0", None])


@given(st.lists(st.tuples(names, names)))
def test_no_pod_of_another_namespace_is_named(pairs: list[tuple[str | None, str | None]]) -> None:
    seen = [connection(source=party(a), destination=party(b)) for a, b in pairs]
    for each in connections_of("shop", seen):
        for end in (each.source, each.destination):
            assert end.pod in {None, "shop/web-0"}
            assert end.workload in {None, "shop/web", "bank/vault", "bank/till"}


def test_the_world_that_is_told_is_the_namespaces_own() -> None:
    def pod(namespace: str, node: str) -> Pod:
        return Pod(uid=f"{namespace}-{node}", namespace=namespace, name=node, node=node)

    def policy(namespace: str, name: str, **spec: object) -> PeerAuthentication:
        return PeerAuthentication(namespace=namespace, name=name, mode=Mode.STRICT, **spec)  # type: ignore[arg-type]  # as given

    pods = [pod("shop", "here"), pod("shop", "there"), pod("bank", "here")]
    own = (policy("shop", "own", selector={"app": "web"}), policy("istio-system", "mesh"))
    world = World(
        trust_domain=TrustDomain("cluster.local"),
        namespaces={name: Namespace(name=name) for name in ("shop", "bank")},
        pods={each.uid: each for each in pods},
        services={f"{each}/web": Service(namespace=each, name="web") for each in ("shop", "bank")},
        policies=(
            *own,
            policy("bank", "secret"),
            policy("istio-system", "root's own", selector={"app": "istiod"}),
        ),
    )
    told = world_of("shop", world, node="here")
    assert told == msgspec.structs.replace(
        world,
        namespaces={"shop": Namespace(name="shop")},
        pods={"shop-here": pods[0]},
        services={"shop/web": Service(namespace="shop", name="web")},
        policies=own,
    )


@given(st.lists(st.integers(0, 50)), st.integers(0, 200))
def test_what_fits_is_told_from_the_first_on(sizes: list[int], room: int) -> None:
    told = that_fit(sizes, room, lambda size: size)
    assert told == tuple(sizes[: len(told)])
    assert sum(told) + len(told) <= room
    if left_out := sizes[len(told) :]:
        assert sum(told) + len(told) + left_out[0] + 1 > room


def asked(namespace: str, number: int) -> Asked:
    name = f"{namespace}-{number}"
    return Asked(
        metadata=ReviewMetadata(name=name, namespace=namespace, uid=name), spec=msgspec.Raw(b"{}")
    )


def test_what_a_namespace_asks_beyond_its_share_is_refused_and_others_are_answered() -> None:
    flood = [asked("flood", number) for number in range(MOST_OF_NAMESPACE + 2)]
    quiet = asked("quiet", 0)
    turns = next_turns([*flood, quiet], answering={}, refusing=0)
    assert turns.answer == (*flood[:MOST_OF_NAMESPACE], quiet)
    assert turns.refuse == tuple(flood[MOST_OF_NAMESPACE:])


def test_what_is_being_answered_counts_to_the_share() -> None:
    answering = {f"flood-{number}": "flood" for number in range(MOST_OF_NAMESPACE)}
    turns = next_turns([asked("flood", 99)], answering=answering, refusing=0)
    assert (turns.answer, turns.refuse) == ((), (asked("flood", 99),))


@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=200),
    st.lists(st.sampled_from("abcdefgh"), max_size=32),
    st.integers(0, 4),
)
def test_no_number_of_questions_makes_more_work_at_once(
    waiting: list[str], working: list[str], refusing: int
) -> None:
    turns = next_turns(
        [asked(namespace, number) for number, namespace in enumerate(waiting)],
        answering={str(number): namespace for number, namespace in enumerate(working)},
        refusing=refusing,
    )
    assert len(turns.answer) + len(working) <= 32
    assert len(turns.refuse) + refusing <= 4
    begun = Counter(each.metadata.namespace for each in turns.answer)
    before = Counter(working)
    assert all(count + before[each] <= MOST_OF_NAMESPACE for each, count in begun.items())


def sent(**status: object) -> bytes:
    """A review as the API server sends it, and as large as users can make one."""
    metadata = {
        "name": "ask",
        "namespace": "shop",
        "uid": "1",
        "annotations": {"a": "x" * 1_000_000},
    }
    spec = {"nodeName": "here", "question": "Events"}
    return msgspec.json.encode({"metadata": metadata, "spec": spec, "status": status})


def test_of_a_review_nothing_is_kept_but_its_question() -> None:
    tracemalloc.start()
    try:
        kept = [read_asked(msgspec.json.decode(sent(), type=msgspec.Raw)) for _ in range(20)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(kept)
    assert size < 1_000_000


def test_of_an_answered_review_nothing_is_kept() -> None:
    condition = {
        "type": "Answered",
        "status": "True",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
        "reason": "Answered",
        "message": "",
    }
    assert read_asked(msgspec.Raw(sent(conditions=[condition], answer={"events": []}))) is None
