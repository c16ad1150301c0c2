"""Follows a cluster through the Kubernetes API.

Each kind has its own loop, which does what its `Reflector` says. The result is one value for all
kinds: the first change is yielded at once, and those shortly after it together. Policies are never
delayed.
"""

from __future__ import annotations

import asyncio
import functools
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from troth.cluster import objects
from troth.cluster.world import (
    ClusterPods,
    ClusterServices,
    ClusterState,
    NodeTopology,
)
from troth.kube.client import ApiClient
from troth.kube.follow import keep
from troth.kube.reflector import Reflector
from troth.kube.resource import Resource
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from lightkube import SingleConfig

    from troth.cluster.world import ClusterService, EndpointSlice
    from troth.errors import Problem, TrothError
    from troth.kube.reflector import Changes
    from troth.mesh.model import Namespace, Pod
    from troth.policy.model import PeerAuthentication

_log = structlog.get_logger(__name__)

_SETTLE_SECONDS = 0.02
"""Changes within this time after a yielded one are yielded together."""

NAMESPACES = Resource(plural="namespaces", read=objects.read_namespace)
PODS = Resource(plural="pods", read=objects.read_pod, is_bulk=True)
SERVICES = Resource(plural="services", read=objects.read_service, is_bulk=True)
ENDPOINT_SLICES = Resource(
    plural="endpointslices",
    group="discovery.k8s.io",
    read=objects.read_endpoint_slice,
    is_bulk=True,
)
POLICIES = Resource(
    plural="peerauthentications",
    group="security.istio.io",
    versions=("v1", "v1beta1"),
    read=objects.read_policy,
    is_optional=True,
)


def _ignore(_: Mapping[str, TrothError]) -> None:
    pass


async def follow(
    config: SingleConfig,
    *,
    node_name: str | None = None,
    on_trouble: Callable[[Mapping[str, TrothError]], None] = _ignore,
    jitter: Callable[[], float] = random.random,
) -> AsyncGenerator[ClusterState, None]:
    """Follow a cluster.

    Errors of the API server don't end it: the last known state is kept until it can be updated. It
    needs the permission to list and watch namespaces, pods, services, endpointslices and
    peerauthentications in all namespaces, and its own node if that is given.

    Args:
        config: The API server's address and the credentials for it.
        node_name: The node whose pods use the services; without one no endpoint is preferred.
        on_trouble: Called whenever the reasons why the state isn't current change, with the errors
            by resource (``pods``, ``endpointslices.discovery.k8s.io``); empty if it is current
            again.
        jitter: Random numbers from 0 up to 1.

    Yields:
        Complete states only: the first one once every kind has been listed, then one after each
        relevant change.

    Raises:
        EnvironmentLackError: ``config`` can't be used.
    """
    server = ApiClient(config)
    view = _View(node_name, on_trouble=on_trouble, jitter=jitter)
    loops = [
        asyncio.create_task(view.keep(server, resource, reflector))
        for resource, reflector in view.kinds
    ]
    told: ClusterState | None = None
    clock, next_tell = asyncio.get_running_loop().time, 0.0
    try:
        while True:
            await _first(asyncio.create_task(view.changed.wait()), loops)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_tell):
                    await view.pressing.wait()
            view.changed.clear()
            view.pressing.clear()
            state = view.state()
            if state is not None and state != told:
                told, next_tell = state, clock() + _SETTLE_SECONDS
                yield state
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await server.aclose()


async def _first(wanted: asyncio.Task[Any], loops: list[asyncio.Task[None]]) -> None:
    """Wait for ``wanted``; if a loop ends meanwhile, raise its error, which is a bug."""
    try:
        await asyncio.wait({wanted, *loops}, return_when=asyncio.FIRST_COMPLETED)
        for loop in loops:
            if loop.done():
                loop.result()
    finally:
        wanted.cancel()


class _View:
    """The combined view of all loops."""

    def __init__(
        self,
        node_name: str | None,
        *,
        on_trouble: Callable[[Mapping[str, TrothError]], None],
        jitter: Callable[[], float],
    ) -> None:
        self.changed = asyncio.Event()
        self.pressing = asyncio.Event()
        self._node_name = node_name or ""
        self._on_trouble = on_trouble
        self._jitter = jitter
        self._troubles: dict[str, TrothError] = {}
        self._pods = ClusterPods(self._node_name)
        self._services = ClusterServices()
        self._namespaces: Table[Namespace] = Table()
        self._policies: tuple[PeerAuthentication, ...] = ()
        self._stored: frozenset[tuple[str, int]] = frozenset()
        self._problems: dict[Reflector[Any], tuple[Problem, ...]] = {}
        self.namespaces: Reflector[Namespace] = Reflector(jitter=jitter)
        self.pods: Reflector[Pod] = Reflector(jitter=jitter)
        self.services: Reflector[ClusterService] = Reflector(jitter=jitter)
        self.slices: Reflector[EndpointSlice] = Reflector(jitter=jitter)
        self.policies: Reflector[PeerAuthentication] = Reflector(jitter=jitter)
        self.nodes: Reflector[NodeTopology] = Reflector(jitter=jitter)

    @property
    def kinds(self) -> list[tuple[Resource[Any], Reflector[Any]]]:
        """All followed kinds."""
        kinds: list[tuple[Resource[Any], Reflector[Any]]] = [
            (NAMESPACES, self.namespaces),
            (PODS, self.pods),
            (SERVICES, self.services),
            (ENDPOINT_SLICES, self.slices),
            (POLICIES, self.policies),
        ]
        if self._node_name:
            own = f"metadata.name={self._node_name}"
            node = Resource(plural="nodes", read=objects.read_node, field_selector=own)
            kinds.append((node, self.nodes))
        return kinds

    def state(self) -> ClusterState | None:
        """The state, if every kind has been listed."""
        reflectors = [reflector for _, reflector in self.kinds]
        if not all(reflector.synced for reflector in reflectors):
            return None
        return ClusterState(
            namespaces=self._namespaces,
            pods=self._pods.by_uid,
            services=self._services.by_key,
            policies=self._policies,
            stored_policies=self._stored,
            problems=tuple(each for one in reflectors for each in self._problems.get(one, ())),
        )

    async def keep(
        self, server: ApiClient, resource: Resource[Any], reflector: Reflector[Any]
    ) -> None:
        """Keep one kind up to date until cancelled."""
        await keep(
            reflector,
            server,
            resource,
            on_change=functools.partial(self._change, reflector),
            on_trouble=functools.partial(self._note, resource),
            jitter=self._jitter,
        )

    def _change(self, reflector: Reflector[Any], changes: Changes[Any]) -> None:
        """Apply the changes of one kind; the cost depends only on them."""
        if changes.problems:
            former, now = self._problems.get(reflector, ()), reflector.problems
            for problem in sorted(set(map(str, now)) - set(map(str, former))):
                _log.warning("an object is not used as it is", problem=problem)
            self._problems[reflector] = now
        if reflector is self.pods:
            self._pods.apply(changes)
        elif reflector is self.services:
            self._services.apply_services(changes)
        elif reflector is self.slices:
            self._services.apply_slices(changes)
        elif reflector is self.nodes:
            named = NodeTopology(name=self._node_name)
            self._services.move(self.nodes.objects.get(self._node_name, named))
        elif reflector is self.namespaces:
            self._namespaces = self._namespaces.changed(changes.upserted, changes.deleted)
        elif reflector is self.policies:
            self._policies = tuple(self.policies.objects.values())
            self._stored = self.policies.stored
            self.pressing.set()
        self.changed.set()

    def _note(self, resource: Resource[Any], trouble: TrothError | None) -> None:
        if trouble is None:
            del self._troubles[str(resource)]
        else:
            self._troubles[str(resource)] = trouble
        self._on_trouble(dict(self._troubles))
