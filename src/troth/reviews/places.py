"""Where the pods of a namespace run, and which nodes have an agent, as somebody may read it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from troth.cluster.contract import REPORT_LABEL, report_node
from troth.cluster.state import PODS
from troth.errors import Problem
from troth.kube import wire
from troth.kube.client import ApiClient, Readings
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode
from troth.mesh.model import Pod

if TYPE_CHECKING:
    from lightkube import SingleConfig


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

    def find(self, name: str) -> Pod | None:
        """The pod called ``NAMESPACE/NAME``, or any (a ready one first) of such a workload."""
        found = [pod for pod in self.pods if str(pod) == name] or [
            pod for pod in self.pods if pod.workload == name and not pod.phase.is_final
        ]
        return max(found, key=lambda pod: pod.ready, default=None)


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
