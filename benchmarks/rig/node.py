"""One node of a big mesh: real pods, the real `troth node` and its Envoy, a real API server."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, Self

from tests.e2e.harness import eventually
from tests.rig.harness import NODES, Cluster
from tests.rig.mesh import ClusterMesh

from benchmarks.rig.population import Size, populate
from benchmarks.rig.process import named
from troth.probe import ask

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.1  # more often would be work for the agent that is measured


class Node:
    """The node, in a cluster with the rest of the mesh.

    Args:
        size: Of the rest.
        tell: Hears what is being made.
    """

    name = "node-1"

    def __init__(self, size: Size, tell: Callable[[str], None]) -> None:
        self.size = size
        self._tell = tell
        self._grown = 0
        self._servers = 0
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            # As in an installation: modules are compiled once and not at every start.
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            self._tell("starting a cluster")
            self.cluster = ends.enter_context(Cluster(NODES[:1]))
            populate(self.cluster.control_plane, self.size, self._tell)
            self._tell("starting troth")
            self.mesh = ends.enter_context(ClusterMesh(self.cluster))
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the agent and of its Envoy."""
        group = f"system.slice/{self.mesh.agents[self.name].name}.service"
        members = self.cluster.nodes[self.name].machine.cgroups.members(group)
        return {"agent": named(members, "troth"), "envoy": named(members, "envoy")}

    def grow(self, count: int) -> None:
        """Have so many pods on the node, each of another service account if there are as many."""
        for number in range(self._grown, count):
            namespace, account = self.size.account(number)
            name = f"local-{number}"
            metadata = {"namespace": namespace, "name": name, "labels": {"app": f"{account}-local"}}
            self.cluster.run_pod(
                {
                    "metadata": metadata,
                    "spec": {"nodeName": self.name, "serviceAccountName": account},
                },
                ["sleep", "infinity"],
                ready=False,
            )
        self._grown = count
        eventually(self.is_ready, seconds=_PATIENCE_SECONDS, what=f"{count} captured pods")

    def serve(self, namespace: str, name: str) -> str:
        """Run an echo server on port 7000 in a pod of its own, captured; its address."""
        pod = self.mesh.serve(namespace, name, self.name)
        self._servers += 1
        self.mesh.await_captured(namespace, name)
        return str(pod["status"]["podIP"])

    def restart(self) -> float:
        """End the agent and its Envoy and start them again.

        Returns:
            Seconds until all of the configuration is acknowledged and all pods are captured.
        """
        agent = self.mesh.agents[self.name]
        agent.terminate()
        begun = time.perf_counter()
        agent.start()
        while not self.is_ready():
            if not agent.alive or time.perf_counter() - begun > _PATIENCE_SECONDS:
                raise TimeoutError(agent.last_words())
            time.sleep(_LOOK_SECONDS)
        return time.perf_counter() - begun

    def is_ready(self) -> bool:
        """Whether the agent says that it is, with every pod captured."""
        readiness = self._ask()
        return (
            readiness.get("waiting_for") == []
            and readiness["captured"] == self._grown + self._servers
        )

    def _ask(self) -> dict[str, Any]:
        run = self.cluster.nodes[self.name].machine.directory / "run"
        _, text = ask(str(run / f"{self.mesh.agents[self.name].name}.health"))
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            return {}  # not listening yet
        return answer
