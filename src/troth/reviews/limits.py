"""What a review of one namespace may tell and cost, of all that a node knows and is asked: pure.

The right to ask about a namespace is no right to hear of others. So only connections count of which
one end is a pod of the namespace; and of the other end only what this one could tell of it: its
address, its workload and identity, and the mode of its port with the policy that set it.

Who may ask also decides how many questions there are and how large their objects are. So only the
question is kept of each, and nothing of an answered one. A namespace has only a few open at a time;
more are refused, not queued.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from troth.mesh.world import World
from troth.reviews.objects import ReviewMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from troth.traffic.connection import Connection, Party
    from troth.traffic.tally import Total

T = TypeVar("T")

MOST_BYTES = 700_000
"""Of an answer; etcd takes objects of 1.5 MB."""

_ANSWERED_AT_ONCE = 32
_REFUSED_AT_ONCE = 4
MOST_OF_NAMESPACE = 8
"""Open reviews."""


def connections_of(namespace: str, seen: Iterable[Connection]) -> tuple[Connection, ...]:
    """The connections with an end in a namespace, as that end knows them."""
    return tuple(_as_known(each, namespace) for each in seen if concerns(each, namespace))


def totals_of(namespace: str, totals: Iterable[Total]) -> tuple[Total, ...]:
    """The totals of such connections."""
    return tuple(
        msgspec.structs.replace(each, newest=_as_known(each.newest, namespace))
        for each in totals
        if concerns(each.newest, namespace)
    )


def concerns(connection: Connection, namespace: str) -> bool:
    """Whether one end of a connection is a pod of the namespace."""
    return _is_of(connection.source, namespace) or _is_of(connection.destination, namespace)


def world_of(namespace: str, world: World, *, node: str) -> World:
    """The namespace, its services, its pods on one node, and the policies that hold for them."""
    places = {namespace, world.root_namespace}
    return World(
        trust_domain=world.trust_domain,
        root_namespace=world.root_namespace,
        namespaces={name: each for name, each in world.namespaces.items() if name == namespace},
        pods={
            uid: pod
            for uid, pod in world.pods.items()
            if pod.namespace == namespace and pod.node == node
        },
        services={
            name: each for name, each in world.services.items() if each.namespace == namespace
        },
        policies=tuple(
            each
            for each in world.policies
            if each.namespace in places and (each.namespace == namespace or not each.selector)
        ),
    )


def that_fit(items: Iterable[T], room: int, size: Callable[[T], int]) -> tuple[T, ...]:
    """As many of the first items as fit into ``room`` bytes; no more are looked at."""
    told: list[T] = []
    for each in items:
        room -= size(each) + 1
        if room < 0:
            break
        told.append(each)
    return tuple(told)


def _is_of(party: Party, namespace: str) -> bool:
    return party.pod is not None and party.pod.startswith(f"{namespace}/")


def _as_known(connection: Connection, namespace: str) -> Connection:
    return msgspec.structs.replace(
        connection,
        source=_seen_from(connection.source, namespace),
        destination=_seen_from(connection.destination, namespace),
    )


def _seen_from(party: Party, namespace: str) -> Party:
    return party if _is_of(party, namespace) else msgspec.structs.replace(party, pod=None)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A review without an answer.

    Attributes:
        spec: The question; that it can be read is yet to be seen.
    """

    metadata: ReviewMetadata
    spec: msgspec.Raw


class Turns(NamedTuple):
    """What to begin with."""

    answer: tuple[Asked, ...]
    refuse: tuple[Asked, ...]


def next_turns(waiting: Iterable[Asked], *, answering: Mapping[str, str], refusing: int) -> Turns:
    """Who is next.

    Args:
        waiting: Those that nothing was begun with, in the order in which they were heard of.
        answering: The namespaces of those being answered, by UID.
        refusing: How many are being refused.
    """
    of_namespace = Counter(answering.values())
    answer: list[Asked] = []
    refuse: list[Asked] = []
    for each in waiting:
        of_namespace[each.metadata.namespace] += 1
        too_many = of_namespace[each.metadata.namespace] > MOST_OF_NAMESPACE
        (refuse if too_many else answer).append(each)
    return Turns(
        tuple(answer[: _ANSWERED_AT_ONCE - len(answering)]),
        tuple(refuse[: _REFUSED_AT_ONCE - refusing]),
    )
