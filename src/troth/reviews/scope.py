"""What a review of one namespace may tell, of all that a node has seen: pure.

The right to ask about a namespace is no right to hear of others. So only connections count of which
one end is a pod of the namespace; and of the other end only what this one could tell of it: its
address, its workload and identity, and the mode of its port with the policy that set it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.mesh.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from troth.traffic.connection import Connection, Party
    from troth.traffic.tally import Total

T = TypeVar("T")

MOST_BYTES = 700_000
"""Of an answer; etcd takes objects of 1.5 MB."""


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
