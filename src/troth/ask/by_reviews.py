"""Queries to a cluster's mesh: to its API, and to its node agents by ConnectionReviews."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from troth.ask.cluster import (
    known_clients,
    read_objects,
    require_essentials,
    require_no_default,
    with_known_workloads,
)
from troth.ask.mesh import Heard
from troth.check.gather import gather_namespace
from troth.check.judge import judge_namespaces
from troth.cluster.installation import read_installation
from troth.connect.diagnose import diagnose
from troth.connect.findings import Reached, belongs, is_echo
from troth.errors import EnvironmentLackError, InputError, PeerError, Problem, TrothError
from troth.explain.audit import audit
from troth.explain.cluster_status import cluster_status
from troth.explain.explain import explain
from troth.explain.noted import Observations, noted_in_plaintext
from troth.explain.validate import lint_together
from troth.explain.why import Conflict, why
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.mesh.model import Endpoint
from troth.mesh.target import find_pod
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE
from troth.reviews.asker import Asker, read_places
from troth.reviews.gather import Follower, concerned_nodes, gather
from troth.reviews.objects import (
    ConnectAnswer,
    EventsAnswer,
    Question,
    ReviewSpec,
    RouteAnswer,
    Seen,
    TraceAnswer,
)
from troth.syntax import choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from troth.ask.cluster import Cluster
    from troth.ask.mesh import Tell
    from troth.connect.findings import Attempt, Route
    from troth.connect.report import Credentials, Diagnosis, Trace, TraceQuestion
    from troth.explain.audit_report import Audit
    from troth.explain.cluster_status import ClusterStatus
    from troth.explain.explain import Derivation
    from troth.explain.noted import Plaintext
    from troth.explain.why import Unanswered, Why
    from troth.mesh.model import EnvoyStatus, Pod
    from troth.mesh.world import World
    from troth.reviews.asker import Places, Replies
    from troth.traffic.connection import Cause, Connection

T = TypeVar("T")

_TRACE_SECONDS = 5
_REPORT_SECONDS = 3.0
"""Envoy flushes its log every 50 ms, and logs a refused connection when it ends."""

_PAUSE_SECONDS = 0.1

_EVENT_SECONDS = 120
"""How far back to request events: more than clocks differ."""

_MOST_EVENTS = 200
_FOLLOW_SECONDS = 2.0
_FOLLOW_SECONDS_PER_NODE = 0.1


class ClusterMesh:
    """The mesh of a cluster, as a `Mesh`.

    Args:
        cluster: The cluster, with the namespace whose connections to query.
        only: The one namespace whose pods a status shows; empty for all.
        home: Where the controller and the node agents run.
        everywhere: Query the agents of all nodes.
        seconds: How long to wait for agents.
        tell: Called with what an answer lacks.
    """

    has_authority = False

    def __init__(
        self,
        cluster: Cluster,
        *,
        only: str,
        home: str,
        everywhere: bool,
        seconds: float,
        tell: Tell,
    ) -> None:
        self.namespace = cluster.namespace
        self._cluster = cluster
        self._only = only
        self._agents = _Agents(cluster, home, everywhere, seconds, tell)

    def followed(self) -> tuple[Path, ...]:
        """None: it follows its API."""
        return ()

    def status(self, *, root_namespace: str, trust_domain: str) -> ClusterStatus:
        """The status of the mesh.

        Raises:
            InputError: There is no such namespace.
        """
        found = asyncio.run(
            read_installation(
                self._cluster.config,
                home=self._agents.home,
                root_namespace=root_namespace,
                namespace=self._only,
            )
        )
        if self._only and not found.namespaces:
            problem = Problem(
                subject=f"namespace {self._only}",
                path="",
                found="isn't there",
                wanted="name one of the cluster's, or leave -n out for all",
            )
            raise InputError([problem])
        objects = read_objects(self._cluster, root_namespace=root_namespace, namespace=self._only)
        return cluster_status(
            found,
            home=self._agents.home,
            root_namespace=root_namespace,
            trust_domain=TrustDomain.parse(trust_domain),
            now=found.read_at or datetime.now(UTC),
            doubts=lint_together(with_known_workloads(objects), root_namespace=root_namespace),
        )

    def why(self, about: str | None, *, most: int) -> Why:
        """Why connections were refused or failed, according to the agents that answered."""
        agents = self._agents
        if about is not None:
            agents = agents.about(about.partition("/")[0])
        seen, unanswered = agents.totals()
        conflicts = _conflicts(agents, seen.world)
        return why(seen, about=about, most=most, conflicts=conflicts, unanswered=unanswered)

    def audit(self, *, seconds: float) -> Audit:
        """Who connected to whom, and who is ready for STRICT."""
        now = datetime.now(UTC)
        seen, unanswered = self._agents.totals(since_seconds=int(seconds))
        return audit(
            seen,
            since=now - timedelta(seconds=int(seconds)),
            now=now,
            known=known_clients(self._cluster, seen.world.root_namespace),
            unanswered=unanswered,
        )

    def events(self, *, follow: bool) -> Iterator[Heard]:
        """The newest connections; later ones are polled."""
        follower = Follower()
        while True:
            asked = time.monotonic()
            answers, unanswered = self._agents.answers(
                Question.EVENTS, EventsAnswer, follower.since_seconds(asked)
            )
            fresh = follower.take(tuple(answers.values()), asked=asked, complete=not unanswered)
            yield Heard(fresh.connections, fresh.left_out, unanswered)
            if not follow:
                return
            # Each poll creates an object per node.
            time.sleep(max(_FOLLOW_SECONDS, len(answers) * _FOLLOW_SECONDS_PER_NODE))

    def trace(self, question: TraceQuestion) -> Diagnosis:
        """Make one connection and trace one handshake."""
        namespace = question.source.partition("/")[0]
        with self._agents.about(namespace).connector() as connector:
            return diagnose(connector, question)

    def explain(
        self, name: str, *, root_namespace: str | None, trust_domain: str | None
    ) -> tuple[Derivation, tuple[Problem, ...]]:
        """Which mode applies to a workload and why, and what could not be read."""
        root = root_namespace or DEFAULT_ROOT_NAMESPACE
        domain = TrustDomain.parse(trust_domain or DEFAULT_TRUST_DOMAIN)
        place = name.partition("/")[0]
        found = read_objects(self._cluster, root_namespace=root, namespace=place, keep=name)
        require_essentials(found, but_in=root)
        # Missing permissions have been considered above.
        lacking = {each.problem for each in found.unreadable}
        problems = tuple(each for each in found.manifests.problems if each not in lacking)
        manifests = msgspec.structs.replace(found.manifests, problems=problems)
        derivation = explain(manifests, name, root_namespace=root, trust_domain=domain)
        require_no_default(found, derivation.explanation)
        return derivation, found.manifests.problems

    def plaintext(self, namespaces: Iterable[str]) -> tuple[Plaintext, ...]:
        """Who spoke plaintext to workloads of these namespaces, according to the agents."""
        seen: list[Plaintext] = []
        for namespace in namespaces:
            try:
                found, unanswered = self._agents.about(namespace).totals()
            except TrothError as error:
                self._agents.tell(f"nothing observed in {namespace}", str(error))
                continue
            for each in unanswered:
                self._agents.tell(f"node {each.node} did not answer", each.why)
            seen += noted_in_plaintext(found.noted)
        return tuple(seen)


class _Agents(NamedTuple):
    """The node agents to query about a namespace.

    Attributes:
        cluster: The cluster, with the namespace.
        home: Where the agents run.
        everywhere: Query those of all nodes.
        seconds: How long to wait.
        tell: Called with what an answer lacks.
    """

    cluster: Cluster
    home: str
    everywhere: bool
    seconds: float
    tell: Tell

    def about(self, namespace: str) -> _Agents:
        """The same for another namespace."""
        return self._replace(cluster=self.cluster._replace(namespace=namespace))

    def totals(
        self, *, since_seconds: int | None = None
    ) -> tuple[Observations, tuple[Unanswered, ...]]:
        """What the agents have seen of the namespace's connections, and who didn't answer."""
        answers, unanswered = self.answers(Question.TOTALS, Observations, since_seconds)
        gathered = gather(answers)
        if gathered.left_out:
            self.tell(
                "too much to tell",
                f"{gathered.left_out} older kinds of connections are left out",
            )
        return gathered, unanswered

    def answers(
        self, question: Question, kind: type[T], since_seconds: int | None
    ) -> tuple[Mapping[str, T], tuple[Unanswered, ...]]:
        """The answers by node, at least one, and who didn't answer.

        Raises:
            PeerError: No agent answered.
            TrothError: The permission to ask is missing.
        """
        replies = asyncio.run(self._ask(question, since_seconds))
        answers, unanswered = replies.read(kind)
        if not answers:
            said = "; ".join(f"node {each.node}: {each.why}" for each in unanswered)
            raise PeerError(
                "troth", f"no agent answered: {said}", "see whether they run: troth status"
            )
        return answers, unanswered

    async def _ask(self, question: Question, since_seconds: int | None) -> Replies:
        """Query every relevant node."""
        config, namespace = self.cluster
        places = await read_places(config, namespace, home=self.home)
        nodes = concerned_nodes(places.pods, places.agents, everywhere=self.everywhere)
        if places.agents is None and (
            self.everywhere or not any(pod.captured for pod in places.pods)
        ):
            for problem in places.problems:
                self.tell("only the nodes of its own pods are asked", str(problem))
        if not nodes:
            raise EnvironmentLackError(
                f"no node is known whose agent could be asked about namespace {namespace}",
                "see that it has running pods and that the agents run: troth status",
            )
        specs = [
            ReviewSpec(node_name=node, question=question, since_seconds=since_seconds)
            for node in sorted(nodes)
        ]
        async with Asker(config, namespace) as asker:
            return await asker.ask(specs, seconds=self.seconds)

    @contextlib.contextmanager
    def connector(self) -> Iterator[ReviewConnector]:
        """A connector for pods of the namespace."""
        config, namespace = self.cluster
        with asyncio.Runner() as runner:
            places = runner.run(read_places(config, namespace, home=self.home))
            asker = Asker(config, namespace)
            runner.run(asker.__aenter__())
            try:
                yield ReviewConnector(runner, asker, places, seconds=self.seconds)
            finally:
                runner.run(asker.__aexit__(None, None, None))


def _conflicts(agents: _Agents, world: World) -> tuple[Conflict, ...]:
    """What `troth check` finds about the namespace's pods, as far as RBAC allows."""
    if not any(each.in_mesh for each in world.namespaces.values()):
        return ()
    try:
        facts = asyncio.run(gather_namespace(*agents.cluster))
    except TrothError as error:
        agents.tell("not looked at", str(error))
        return ()
    return tuple(
        Conflict(
            code=each.code,
            where=each.where,
            what=each.what,
            why=each.why,
            remedy=each.remedy,
        )
        for each in judge_namespaces(facts)
    )


class ReviewConnector:
    """A `Connector` that queries one node agent at a time.

    The client's node makes a connection; only the server's node knows what the server's proxy did
    with it, so its events are read before and after.

    Args:
        runner: Runs the queries.
        asker: The client's namespace's.
        places: That namespace's.
        seconds: How long to wait for an agent, in addition to the connection itself.
    """

    def __init__(
        self, runner: asyncio.Runner, asker: Asker, places: Places, *, seconds: float
    ) -> None:
        self._runner = runner
        self._asker = asker
        self._places = places
        self._seconds = seconds
        self._route: RouteAnswer | None = None
        self._envoy: EnvoyStatus | None = None
        self._causes: dict[Connection, Cause] = {}

    def route(self, source: str, destination: str, port: int) -> Route:
        """Where a connection would go."""
        pod = self._pod(source)
        answer = self._ask(
            pod, Question.ROUTE, RouteAnswer, from_pod=pod.name, to=destination, port=port
        )
        self._route, self._envoy = answer, answer.envoy
        return answer.route

    def connect(
        self, source: str, destination: str, port: int, *, past_tunnel: bool, seconds: float
    ) -> Attempt:
        """Make a connection."""
        pod = self._pod(source)
        others = self._servers_nodes() - {pod.node}
        before = {
            each.connection
            for each in self._events(
                others,
                from_pod=pod.name,
                to=destination,
                port=port,
                timeout_seconds=int(seconds),
            )
        }
        answer = self._ask(
            pod,
            Question.CONNECT,
            ConnectAnswer,
            from_pod=pod.name,
            to=destination,
            port=port,
            past_tunnel=past_tunnel,
            timeout_seconds=int(seconds),
        )
        attempt, self._envoy = answer.attempt, answer.envoy
        event = self._remember(attempt.event, answer.cause)
        if attempt.reached is not Reached.UNREACHABLE and (event is None or is_echo(event)):
            by_proxy = pod.captured and not past_tunnel
            ways = self._route.route.ways if self._route is not None else ()
            ends = [Endpoint(way.client.address, way.client.port) for way in ways]

            def is_ours(seen: Connection) -> bool:
                return seen not in before and belongs(
                    seen,
                    pod,
                    ends,
                    began=None,
                    own_port=None if by_proxy else attempt.source_port,
                )

            event = self._reported(others, is_ours) or event
        return msgspec.structs.replace(attempt, event=event)

    def trace(
        self,
        source: str,
        destination: str,
        port: int,
        *,
        credentials: Credentials,
        claim: str | None,
    ) -> Trace:
        """Make a handshake."""
        pod = self._pod(source)
        others = self._servers_nodes() - {pod.node}
        place = {"from_pod": pod.name, "to": destination, "port": port}
        self._events(others, **place, timeout_seconds=_TRACE_SECONDS)
        answer = self._ask(
            pod,
            Question.TRACE,
            TraceAnswer,
            **place,
            credentials=str(credentials),
            claim=claim,
            timeout_seconds=_TRACE_SECONDS,
        )
        traced = answer.trace
        event = self._remember(traced.event, answer.cause)
        if event is None:

            def is_ours(seen: Connection) -> bool:
                source = seen.source
                return source.port == traced.source_port and source.address in pod.addresses

            event = self._reported(others, is_ours)
        return msgspec.structs.replace(traced, event=event)

    def cause(self, connection: Connection) -> Cause:
        """Cause and remedy of a connection, from the node that reported it."""
        return self._causes[connection]

    def listening(self, pod: str) -> None:  # noqa: ARG002 - of the protocol
        """None: it is about another pod, and maybe another namespace."""
        return

    def envoy(self) -> EnvoyStatus:
        """The last known status of Envoy on the client's node."""
        if self._envoy is None:
            raise PeerError("troth", "no agent has answered yet")
        return self._envoy

    def _reported(
        self, nodes: frozenset[str], is_ours: Callable[[Connection], bool]
    ) -> Connection | None:
        """The newest of the servers' reports that ``is_ours``; None if there is none soon."""
        deadline = time.monotonic() + _REPORT_SECONDS
        while nodes:
            for each in reversed(self._events(nodes)):
                if is_ours(each.connection):
                    return self._remember(each.connection, each.cause)
            if time.monotonic() > deadline:
                break
            self._runner.run(asyncio.sleep(_PAUSE_SECONDS))
        return None

    def _events(self, nodes: Iterable[str], **expected: Any) -> list[Seen]:
        """What nodes have seen, oldest first; ``expected`` is the connection about to be traced."""
        specs = [
            ReviewSpec(
                node_name=node,
                question=Question.EVENTS,
                since_seconds=_EVENT_SECONDS,
                limit=_MOST_EVENTS,
                **expected,
            )
            for node in nodes
        ]
        if not specs:
            return []
        replies = self._runner.run(self._asker.ask(specs, seconds=self._seconds))
        answers, _ = replies.read(EventsAnswer)
        return sorted(
            (seen for answer in answers.values() for seen in answer.events),
            key=lambda seen: seen.connection.time,
        )

    def _remember(self, event: Connection | None, cause: Cause | None) -> Connection | None:
        if event is not None and cause is not None:
            self._causes[event] = cause
        return event

    def _servers_nodes(self) -> frozenset[str]:
        return frozenset(self._route.nodes.values() if self._route is not None else ())

    def _pod(self, name: str) -> Pod:
        pod = find_pod(self._places.pods, name)
        if pod is None:
            raise PeerError(
                "troth",
                f"no pod or workload is called {name!r}",
                choices(name, (pod.workload for pod in self._places.pods)),
            )
        if not pod.node:
            raise PeerError("troth", f"{pod} is not bound to a node yet", "wait until it runs")
        return pod

    def _ask(self, pod: Pod, question: Question, kind: type[T], **arguments: Any) -> T:
        spec = ReviewSpec(node_name=pod.node, question=question, **arguments)
        seconds = self._seconds + spec.timeout_seconds
        replies = self._runner.run(self._asker.ask([spec], seconds=seconds))
        if pod.node in replies.refused:
            raise replies.refused[pod.node]
        answers, unanswered = replies.read(kind)
        if pod.node in answers:
            return answers[pod.node]
        why = unanswered[0].why
        raise PeerError(f"node {pod.node}", why, "see whether its agent runs: troth status")
