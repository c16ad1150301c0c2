"""What one change costs a node agent, from the world to what Envoy is to be sent, by mesh size.

Pure code: `ViewKeeper` and `SnapshotKeeper`, each beside itself starting from nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from benchmarks.framework import Benchmark, Figure, Run, absolute, interleaved, middle, ratio
from benchmarks.framework.yardstick import timed
from benchmarks.policies import NAMESPACE_SIZE, ROOT, policies, workloads
from troth.envoy.build import SnapshotKeeper
from troth.identity.authority import CertificateAuthority
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import ContainerPort, Endpoint, Pod, Service, ServicePort
from troth.mesh.view import ViewKeeper
from troth.mesh.world import World
from troth.policy.model import Mode
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

_SIZES = (100, 1_000, 10_000)
_LOCAL_PODS = 50
_PODS_PER_SERVICE = 10
_CHANGE_TARGET_MS = 10
_TRUST_DOMAIN = TrustDomain.parse("cluster.local")
_BUNDLE = CertificateAuthority.self_signed(_TRUST_DOMAIN, now=datetime.now(UTC)).trust_bundle


def _run(run: Run) -> Iterator[Figure]:
    rounds = run.choose(40, 8)
    changes: dict[tuple[str, int], list[float]] = {}
    for size in _SIZES:
        run.step(f"building a mesh of {size:,}")
        world = _world(size)
        worlds = {"policy": _policy_changes(world), "pod": _pod_changes(world)}
        agents = {what: _Agent() for what in worlds}
        for what, agent in agents.items():
            agent.update(next(worlds[what]))
        samples = interleaved(
            {what: _change(agents[what], worlds[what]) for what in worlds},
            run.track(range(rounds), f"changes in a mesh of {size:,}"),
        )
        scratch = [timed(lambda: _Agent().update(world)) for _ in range(run.choose(5, 2))]  # noqa: B023 - at once
        for what, those in samples.items():
            changes[what, size] = those
            yield absolute(
                f"one {what}, {size:,} workloads",
                middle(those),
                unit="ms",
                target=_CHANGE_TARGET_MS if size == max(_SIZES) else None,
                note=f"from nothing {middle(scratch).value:,.0f}; {agents[what].stages()}",
            )
    for what in ("policy", "pod"):
        yield ratio(
            f"one {what}, scaling to {max(_SIZES):,} workloads",
            changes[what, max(_SIZES)],
            changes[what, min(_SIZES)],
            to=f"with {min(_SIZES)}",
            unit="ms",
        )


class _Agent:
    """The pure half of a node agent."""

    def __init__(self) -> None:
        self._views = ViewKeeper()
        self._snapshots = SnapshotKeeper(access_log=Path("/run/access-log"))
        self._view_ms: list[float] = []
        self._snapshot_ms: list[float] = []

    def update(self, world: World) -> None:
        netns = {
            uid: f"/run/netns/{uid}" for uid, _ in zip(world.pods, range(_LOCAL_PODS), strict=False)
        }
        view, view_ms = _timed(
            lambda: self._views.update(world, netns=netns, service_ranges=("10.96.0.0/16",))
        )
        _, snapshot_ms = _timed(lambda: self._snapshots.update(view, (), _BUNDLE))
        self._view_ms.append(view_ms)
        self._snapshot_ms.append(snapshot_ms)

    def stages(self) -> str:
        """Where the time of a change goes."""
        view, snapshot = middle(self._view_ms).value, middle(self._snapshot_ms).value
        return f"view {view:.2f}, snapshot {snapshot:.2f}"


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    results: list[T] = []
    milliseconds = timed(lambda: results.append(action()))
    return results[0], milliseconds


def _change(agent: _Agent, worlds: Iterator[World]) -> Callable[[], float]:
    def change() -> float:
        world = next(worlds)
        return timed(lambda: agent.update(world))

    return change


def _world(size: int) -> World:
    everything = workloads(size)
    pods = {
        f"uid-{number}": Pod(
            uid=f"uid-{number}",
            namespace=each.namespace,
            name=f"pod-{number}",
            labels=each.labels,
            service_account=each.labels["app"],
            addresses=(_address(number), f"fd00::{number + 1:x}"),
            ports=tuple(ContainerPort(number=port) for port in each.ports),
            captured=True,
            ready=True,
        )
        for number, each in enumerate(everything)
    }
    found = list(pods.values())
    services = {
        f"ns/service-{first}": _service(first, found[first : first + _PODS_PER_SERVICE])
        for first in range(0, size, _PODS_PER_SERVICE)
    }
    made = policies(max(10, size // 10), namespaces=max(1, size // NAMESPACE_SIZE))
    return World(
        trust_domain=_TRUST_DOMAIN,
        root_namespace=ROOT,
        pods=Table(pods),
        services=Table(services),
        policies=tuple(made),
    )


def _service(number: int, pods: Sequence[Pod]) -> Service:
    endpoints = tuple(Endpoint(pod.addresses[0], 8080) for pod in pods)
    return Service(
        namespace="ns",
        name=f"service-{number}",
        cluster_ips=(f"10.96.{number // 250 % 250}.{number % 250}",),
        ports=(ServicePort(number=80, endpoints=endpoints),),
    )


def _address(number: int) -> str:
    return f"10.{number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def _policy_changes(world: World) -> Iterator[World]:
    """The last policy, one for a workload, turned STRICT and back."""
    for mode in cycle((Mode.STRICT, Mode.DISABLE)):
        changed = msgspec.structs.replace(world.policies[-1], mode=mode)
        world = msgspec.structs.replace(world, policies=(*world.policies[:-1], changed))
        yield world


def _pod_changes(world: World) -> Iterator[World]:
    """The last pod, one of another node, with another address and back."""
    uid, pod = list(world.pods.items())[-1]
    pods = world.pods
    for last in cycle((251, 252)):
        moved = msgspec.structs.replace(pod, addresses=(f"10.250.250.{last}",))
        if not isinstance(pods, Table):
            raise TypeError(pods)
        pods = pods.changed({uid: moved}, ())
        yield msgspec.structs.replace(world, pods=pods)


BENCHMARK = Benchmark(
    about="one changed policy or pod, from the world to Envoy's resources, by mesh size", run=_run
)
