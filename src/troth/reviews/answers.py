"""What a node's agent answers to one question."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.connect.attempt import ClientPod, connect, http_get
from troth.connect.report import Credentials
from troth.connect.route import envoy_status, route
from troth.errors import PeerError
from troth.explain.noted import Observations
from troth.explain.remedies import Explainer, note
from troth.identity.spiffe import SpiffeId
from troth.mesh.target import Target, find_target, pod_at, target_key
from troth.reviews.limits import MOST_BYTES, connections_of, that_fit, totals_of, world_of
from troth.reviews.objects import (
    ConnectAnswer,
    EventsAnswer,
    Question,
    RouteAnswer,
    Seen,
    TraceAnswer,
)
from troth.traffic.tally import Total

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from troth.agent.agent import NodeAgent
    from troth.explain.noted import Noted
    from troth.identity.spiffe import TrustDomain
    from troth.mesh.model import EnvoyStatus, Pod
    from troth.mesh.world import World
    from troth.reviews.objects import ReviewSpec
    from troth.traffic.connection import Cause, Connection

_REPORT_SECONDS = 10.0
"""How long reports of a traced connection may take, beside the connection itself."""


class Knowledge(NamedTuple):
    """What an agent can answer from.

    Attributes:
        node: The node's name.
        world: Everything that is known.
        agent: What enforces it.
        find_netns: Finds the network namespaces of pods of the node; gives them by UID.
    """

    node: str
    world: World
    agent: NodeAgent
    find_netns: Callable[[Iterable[Pod]], Awaitable[Mapping[str, Path]]]


async def answer(spec: ReviewSpec, namespace: str, known: Knowledge) -> msgspec.Struct:
    """Answer a question about a namespace.

    Raises:
        TrothError: It can't be answered, or not for this namespace.
    """
    match spec.question:
        case Question.TOTALS:
            return await _totals(spec, namespace, known)
        case Question.EVENTS:
            return await _events(spec, namespace, known)
        case Question.ROUTE:
            return _route(spec, _source(spec, namespace, known), known)
        case Question.CONNECT:
            return await _connect(spec, _source(spec, namespace, known), known)
        case Question.TRACE:
            return await _trace(spec, _source(spec, namespace, known), known)


async def _totals(spec: ReviewSpec, namespace: str, known: Knowledge) -> Observations:
    """What was seen of the namespace's connections, with the namespace as it is now.

    Raises:
        PeerError: The namespace alone is more than an answer can hold.
    """
    agent, tally = known.agent, known.agent.journal.tally
    # What changes is read first; what takes long has a thread.
    totals, complete_since = tally.totals(_since(spec)), tally.complete_since
    world, told, left_out = await asyncio.to_thread(_told, totals, namespace, known)
    return Observations(
        complete_since=max((complete_since, *(each.last for each in left_out))),
        noted=told,
        left_out=len(left_out),
        world=world,
        not_captured={uid: why for uid, why in agent.refused.items() if uid in world.pods},
        refused_by_envoy=envoy_status(agent, of=world.pods).refused,
    )


def _told(
    totals: Iterable[Total], namespace: str, known: Knowledge
) -> tuple[World, tuple[Noted, ...], tuple[Total, ...]]:
    """What to tell of the namespace and its totals, and which of them find no room."""
    world = world_of(namespace, known.world, node=known.node)
    found = totals_of(namespace, totals)
    room = MOST_BYTES - _size(world)
    if room < 0:
        raise PeerError(
            "troth", f"namespace {namespace} has too many pods, services and policies to tell of"
        )
    # Noted by the whole world, and told of this namespace.
    told = that_fit(note(found, known.world), room, _size)
    return world, told, found[len(told) :]


async def _events(spec: ReviewSpec, namespace: str, known: Knowledge) -> EventsAnswer:
    """The newest connections of the namespace.

    With a place to connect to, a connection from there to it is about to be traced.
    """
    if spec.from_pod is not None:
        source = _pod(spec, namespace, known)
        _, target = _target(spec, source, known)
        known.agent.connections.expect(
            source, target, own_port=None, seconds=spec.timeout_seconds + _REPORT_SECONDS
        )
    seen = tuple(known.agent.connections)
    return await asyncio.to_thread(_newest, spec, namespace, seen, known.world)


def _newest(
    spec: ReviewSpec, namespace: str, connections: Iterable[Connection], world: World
) -> EventsAnswer:
    since = _since(spec)
    found = connections_of(
        namespace, (each for each in connections if since is None or each.time >= since)
    )
    explainer = Explainer(world)  # made once: it goes through all that is known
    newest = (Seen(connection=each, cause=_explained(each, explainer)) for each in reversed(found))
    told = that_fit(islice(newest, spec.limit), MOST_BYTES, _size)
    return EventsAnswer(events=tuple(reversed(told)), left_out=len(found) - len(told))


def _route(spec: ReviewSpec, source: Pod, known: Knowledge) -> RouteAnswer:
    to, target = _target(spec, source, known)
    found = route(known.world, source, to, target, refused=known.agent.refused)
    pods = {end.address: pod_at(known.world, end.address) for end in target.endpoints}
    return RouteAnswer(
        route=found,
        nodes={address: pod.node for address, pod in pods.items() if pod and pod.captured},
        envoy=_envoy(source, known),
    )


async def _connect(spec: ReviewSpec, source: Pod, known: Knowledge) -> ConnectAnswer:
    to, target = _target(spec, source, known)
    attempt = await connect(
        known.world,
        await _place(source, known),
        target,
        connections=known.agent.connections,
        payload=http_get(to),
        timeout=spec.timeout_seconds,
        captured=not spec.past_tunnel,
        node=known.node,
    )
    return ConnectAnswer(
        attempt=attempt,
        cause=_explained(attempt.event, Explainer(known.world)),
        envoy=_envoy(source, known),
    )


async def _trace(spec: ReviewSpec, source: Pod, known: Knowledge) -> TraceAnswer:
    # Slow to import, and seldom needed.
    from troth.connect import tracing  # noqa: PLC0415

    to, target = _target(spec, source, known)
    certificates = known.agent.certificates
    traced = await tracing.trace(
        known.world,
        await _place(source, known),
        target,
        credentials=Credentials(spec.credentials),
        claimed=_claimed(spec, known.world.trust_domain),
        identities=tracing.Identities(current=certificates.current(), roots=certificates.bundle),
        connections=known.agent.connections,
        payload=http_get(to),
        timeout=spec.timeout_seconds,
        node=known.node,
    )
    return TraceAnswer(trace=traced, cause=_explained(traced.event, Explainer(known.world)))


def _envoy(source: Pod, known: Knowledge) -> EnvoyStatus:
    """How the node's Envoy is; of what it refuses, only what the source's namespace may know."""
    pods = world_of(source.namespace, known.world, node=known.node).pods
    return envoy_status(known.agent, of=pods)


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))


def _since(spec: ReviewSpec) -> datetime | None:
    if spec.since_seconds is None:
        return None
    return datetime.now(UTC) - timedelta(seconds=spec.since_seconds)


def _explained(connection: Connection | None, explainer: Explainer) -> Cause | None:
    if connection is None or not connection.outcome.is_trouble:
        return None
    return explainer.explain(Total.of(connection))


def _source(spec: ReviewSpec, namespace: str, known: Knowledge) -> Pod:
    """The pod that is to connect: one of the namespace asked about, and of this node."""
    pod = _pod(spec, namespace, known)
    if pod.node != known.node:
        raise PeerError(
            "troth",
            f"no pod of node {known.node} is called {pod}",
            "name a running pod of the review's namespace, and that pod's node",
        )
    return pod


def _pod(spec: ReviewSpec, namespace: str, known: Knowledge) -> Pod:
    for pod in known.world.pods.values():
        if str(pod) == f"{namespace}/{spec.from_pod}":
            if pod.host_network or not pod.addresses or pod.phase.is_final:
                raise PeerError(
                    "troth", f"{pod} has no network of its own to connect from", "name another pod"
                )
            return pod
    raise PeerError(
        "troth",
        f"no pod is called {namespace}/{spec.from_pod}",
        "name a running pod of the review's namespace",
    )


def _claimed(spec: ReviewSpec, trust_domain: TrustDomain) -> SpiffeId | None:
    """The identity that a forged certificate claims: by its name alone, whether it exists or not.

    Raises:
        InputError: It can't be the name of one.
    """
    if spec.claim is None:
        return None
    namespace, _, service_account = spec.claim.partition("/")
    return SpiffeId.for_service_account(trust_domain, namespace, service_account)


def _target(spec: ReviewSpec, source: Pod, known: Knowledge) -> tuple[str, Target]:
    if spec.to is None or spec.port is None:
        raise PeerError("troth", "from, to and port belong together", "give all three")
    try:
        to = target_key(spec.to, source.namespace)
        return to, find_target(known.world, to, spec.port, source)
    except PeerError as error:
        # Who may ask about one namespace isn't told what there is in all others.
        raise PeerError(
            error.peer,
            error.reason,
            "name a Service, a pod or a Deployment as NAMESPACE/NAME, or give an IP",
        ) from None


async def _place(pod: Pod, known: Knowledge) -> ClientPod:
    found = await known.find_netns([pod])
    if pod.uid not in found:
        raise PeerError("troth", f"{pod} has no process on node {known.node}", "see that it runs")
    return ClientPod(pod=pod, netns=found[pod.uid])
