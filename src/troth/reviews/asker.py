"""Asks node agents: finds where they run, makes reviews, awaits answers, deletes the reviews."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import msgspec

from troth.cluster.contract import REPORT_LABEL, report_node
from troth.cluster.state import PODS
from troth.errors import EnvironmentLackError, PeerError, Problem, TrothError
from troth.explain.why import Unanswered
from troth.kube import wire
from troth.kube.client import ApiClient, Readings
from troth.kube.errors import NotFoundError
from troth.kube.follow import Followed
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode
from troth.mesh.model import Pod
from troth.reviews.objects import (
    ASKER_LABEL,
    CONNECTION_REVIEW,
    Review,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
    from types import TracebackType

    from lightkube import SingleConfig

    from troth.reviews.objects import ReviewCondition, ReviewSpec, ReviewStatus

T = TypeVar("T")

_AT_ONCE = 20
_LOOK_SECONDS = 0.25


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where to ask.

    Attributes:
        pods: The namespace's.
        agents: The nodes with an agent; None if they may not be read.
        problems: What may not be read.
    """

    pods: tuple[Pod, ...]
    agents: frozenset[str] | None
    problems: tuple[Problem, ...] = ()


async def read_places(config: SingleConfig, namespace: str, *, home: str) -> Places:
    """Read where to ask about a namespace.

    Args:
        config: How to reach the API server, and as whom.
        namespace: The namespace.
        home: Where the agents run.

    Raises:
        EnvironmentLackError: There is no right to list the namespace's pods.
        TrothError: The API server can't be asked.
    """
    async with contextlib.aclosing(ApiClient(config)) as server:
        readings = Readings(server)
        pods = await readings.read(PODS.within(namespace))
        if pods is None:
            raise readings.unreadable[0].error
        leases = await readings.read(_reports(home))
    return Places(
        pods=tuple(item.value for item in pods if item.value is not None),
        agents=None
        if leases is None
        else frozenset(item.value for item in leases if item.value is not None),
        problems=tuple(each.problem for each in readings.unreadable),
    )


def _reports(home: str) -> Resource[str]:
    return Resource(
        plural="leases",
        group="coordination.k8s.io",
        namespace=home,
        read=reader("Lease", _node),
        label_selector=f"{REPORT_LABEL}=node",
    )


def _node(raw: msgspec.Raw) -> str | None:
    return report_node(decode(raw, wire.Headed).metadata.name)


class Replies(NamedTuple):
    """What came of questions.

    Attributes:
        answers: By node.
        refused: What agents would not answer, by node.
        unanswered: The nodes that said nothing.
    """

    answers: Mapping[str, msgspec.Raw]
    refused: Mapping[str, PeerError]
    unanswered: tuple[Unanswered, ...]

    def read(self, kind: type[T]) -> tuple[Mapping[str, T], tuple[Unanswered, ...]]:
        """The answers that are ``kind``, by node; and all nodes without such a one."""
        answers: dict[str, T] = {}
        lacking = [
            *self.unanswered,
            *(Unanswered(node=node, why=str(error)) for node, error in self.refused.items()),
        ]
        for node, raw in self.answers.items():
            try:
                answers[node] = decode(raw, kind)
            except (msgspec.DecodeError, TrothError) as error:
                why = f"its answer can't be read, as if of another version of troth: {error}"
                lacking.append(Unanswered(node=node, why=why))
        return answers, tuple(lacking)


class Asker:
    """Asks about one namespace, as a context.

    Args:
        config: How to reach the API server, and as whom: with the right to create, list, watch and
            delete ConnectionReviews in the namespace.
        namespace: The namespace.
    """

    def __init__(self, config: SingleConfig, namespace: str) -> None:
        self._config = config
        self._namespace = namespace
        self._id = uuid.uuid4().hex
        self._ends = contextlib.AsyncExitStack()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as ends:
            self._client = await ends.enter_async_context(
                contextlib.aclosing(ApiClient(self._config))
            )
            self._reviews: Followed[Review] = Followed(
                self._client,
                CONNECTION_REVIEW.objects(
                    namespace=self._namespace,
                    label_selector=f"{ASKER_LABEL}={self._id}",
                    is_optional=True,
                ),
                on_change=self._changed.set,
                jitter=lambda: 0.0,
            )
            following = asyncio.create_task(self._reviews.run())
            ends.push_async_callback(_end, following)
            self._ends = ends.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._ends.aclose()

    async def ask(self, specs: Iterable[ReviewSpec], *, seconds: float) -> Replies:
        """Ask each node one question.

        Args:
            specs: The questions.
            seconds: How long to wait for the answers.

        Raises:
            EnvironmentLackError: There is no right to ask, or nobody who could answer.
            PeerError: The API server refuses.
        """
        limit = asyncio.Semaphore(_AT_ONCE)
        nodes: dict[str, str] = {}  # of the reviews that are there, by their names
        removals: list[asyncio.Task[None]] = []

        async def make(spec: ReviewSpec) -> None:
            async with limit:
                nodes[await self._make(spec)] = spec.node_name

        async def remove(name: str) -> None:
            async with limit:
                with contextlib.suppress(NotFoundError):
                    await self._client.delete(CONNECTION_REVIEW, name, self._namespace)

        answers: dict[str, msgspec.Raw] = {}
        refused: dict[str, PeerError] = {}
        try:
            outcomes = await asyncio.gather(*map(make, specs), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
            async with contextlib.aclosing(self._answers(nodes, seconds)) as found:
                async for name, said, status in found:
                    # At once: nodes and the API server have better things to keep.
                    removals.append(asyncio.create_task(remove(name)))
                    node = nodes.pop(name)
                    if said.status == "True":
                        answers[node] = status.answer.copy()
                    else:
                        refused[node] = PeerError(f"node {node}", said.message, status.remedy)
            why = f"no answer within {seconds:g} s"
            silent = (Unanswered(node=node, why=why) for node in sorted(nodes.values()))
            return Replies(dict(sorted(answers.items())), dict(sorted(refused.items())), (*silent,))
        finally:
            # The controller deletes what we can't, some minutes later.
            await asyncio.gather(*removals, *map(remove, nodes), return_exceptions=True)

    async def _make(self, spec: ReviewSpec) -> str:
        review = {
            "metadata": {"generateName": "ask-", "labels": {ASKER_LABEL: self._id}},
            "spec": spec,
        }
        try:
            made = await self._client.create(CONNECTION_REVIEW, review, self._namespace)
        except NotFoundError as error:
            raise EnvironmentLackError(
                f"the cluster has no namespace {self._namespace}, or no ConnectionReviews",
                "name a namespace that is there, and see that troth is installed: troth check",
            ) from error
        except EnvironmentLackError as error:
            raise EnvironmentLackError(
                f"node agents can't be asked about namespace {self._namespace}: {error.lack}",
                "have ClusterRole troth-ask bound to you there (`trace` also needs the right to "
                "create pods/exec)",
            ) from error
        return made.metadata.name

    async def _answers(
        self, names: Collection[str], seconds: float
    ) -> AsyncGenerator[tuple[str, ReviewCondition, ReviewStatus], None]:
        """The answers to those reviews, as long as ``names`` has any, but for no longer."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            for review in list(self._reviews.objects.values()):
                said, name = review.status.answered, review.metadata.name
                if name in names and said is not None:
                    yield name, said, review.status
            if not names:
                return
            if self._reviews.error is not None and not self._reviews.is_synced:
                raise self._reviews.error
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_SECONDS)):
                    await self._changed.wait()
            self._changed.clear()


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, TrothError):
        await task
