"""Whom to ask about a namespace, and what all answers are together, each event told once: pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from troth.explain.noted import Observations
from troth.mesh.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from troth.mesh.model import Pod
    from troth.reviews.objects import EventsAnswer
    from troth.traffic.connection import Connection


def concerned_nodes(
    pods: Iterable[Pod], agents: frozenset[str] | None, *, everywhere: bool = False
) -> frozenset[str]:
    """The nodes whose agents may have seen connections of a namespace.

    Its pods' own, if they are captured; for what comes of pods that are not, all that others' pods
    are on.

    Args:
        pods: The namespace's.
        agents: All nodes with an agent; None if they aren't known.
        everywhere: Ask them all.
    """
    running = [pod for pod in pods if pod.node and not pod.phase.is_final and not pod.host_network]
    own = frozenset(pod.node for pod in running)
    if agents is None or (not everywhere and any(pod.captured for pod in running)):
        return own
    return agents


def gather(answers: Mapping[str, Observations]) -> Observations:
    """Put together what nodes answered.

    Args:
        answers: By node; one at least.
    """
    worlds = [each.world for each in answers.values()]
    return Observations(
        complete_since=max(each.complete_since for each in answers.values()),
        noted=tuple(noted for each in answers.values() for noted in each.noted),
        left_out=sum(each.left_out for each in answers.values()),
        world=World(
            trust_domain=worlds[0].trust_domain,
            root_namespace=worlds[0].root_namespace,
            namespaces={name: one for world in worlds for name, one in world.namespaces.items()},
            pods={uid: pod for world in worlds for uid, pod in world.pods.items()},
            services={name: one for world in worlds for name, one in world.services.items()},
            policies=tuple(
                {policy.key: policy for world in worlds for policy in world.policies}.values()
            ),
        ),
        not_captured={
            uid: why for each in answers.values() for uid, why in each.not_captured.items()
        },
        refused_by_envoy=tuple(
            f"{node}: {words}"
            for node, each in sorted(answers.items())
            for words in each.refused_by_envoy
        ),
    )


_OVERLAP_SECONDS = 30
"""How late an agent may hear of a connection: one that failed is reported at its end."""


class Fresh(NamedTuple):
    """What is new.

    Attributes:
        connections: The oldest first.
        left_out: How many older ones were too many to tell.
    """

    connections: tuple[Connection, ...]
    left_out: int


class Follower:
    """Remembers what was told of the time that the next question is about, too."""

    def __init__(self) -> None:
        self._told: frozenset[Connection] = frozenset()
        self._complete_at: float | None = None

    def since_seconds(self, now: float) -> int | None:
        """What to ask about; None for everything.

        Args:
            now: In seconds, on a clock that only goes forward.
        """
        if self._complete_at is None:
            return None
        return math.ceil(now - self._complete_at) + _OVERLAP_SECONDS

    def take(self, answers: Sequence[EventsAnswer], *, asked: float, complete: bool) -> Fresh:
        """What of the answers is new.

        Args:
            answers: Of the nodes that gave one.
            asked: When, on the clock of `since_seconds`.
            complete: Every node gave one. Otherwise the next question is about this time again.
        """
        seen = [frozenset(each.connection for each in answer.events) for answer in answers]
        heard: frozenset[Connection] = frozenset().union(*seen)
        # An answer that goes back to what was told has left out only what was told, too.
        left_out = sum(
            answer.left_out
            for answer, of in zip(answers, seen, strict=True)
            if of.isdisjoint(self._told)
        )
        fresh = Fresh(tuple(sorted(heard - self._told, key=lambda each: each.time)), left_out)
        if complete:
            self._told, self._complete_at = heard, asked
        else:
            self._told |= heard
        return fresh
