"""Putting policies in force, and finding the event of a connection."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.e2e.client import Client
from tests.e2e.harness import eventually
from tests.e2e.manifests import document

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tests.e2e.harness import Mesh
    from tests.e2e.manifests import Object

FILE = "policies.yaml"


def apply(mesh: Mesh, *policies: Object, modes: Mapping[str, str]) -> None:
    """Make these the only policies, and wait until they are enforced.

    Args:
        mesh: Where.
        policies: All of them.
        modes: What decides then, to know them by: ``NAMESPACE/POD`` or ``NAMESPACE/POD:PORT``,
            and ``MODE`` or ``MODE by NAMESPACE/POLICY``.
    """
    mesh.write(FILE, document(policies))
    metadata = [each["metadata"] for each in policies]
    wait_for(mesh, modes, policies={f"{each['namespace']}/{each['name']}" for each in metadata})


def wait_for(
    mesh: Mesh, modes: Mapping[str, str], *, policies: Collection[str] | None = None
) -> None:
    """Wait until these modes are in force, as `apply` has them, by no other policies than these."""

    def in_force() -> bool:
        status = mesh.status()
        if not status["ready"] or policies not in (None, set(status["policies"])):
            return False
        seen = set()
        for pod in status["pods"]:
            name = f"{pod['namespace']}/{pod['name']}"
            seen |= _sayings(name, pod)
            for port, decision in pod["ports"].items():
                seen |= _sayings(f"{name}:{port}", decision)
        return modes.items() <= seen

    eventually(in_force, what=f"{modes}")


def wait_serving(mesh: Mesh) -> None:
    """Wait until every pod is ready, and Envoy knows."""
    eventually(
        lambda: (status := mesh.status())["ready"] and all(pod["ready"] for pod in status["pods"]),
        what="all pods' readiness",
    )


@contextlib.contextmanager
def clients(mesh: Mesh, *pods: str) -> Iterator[list[Client]]:
    """A client in each of these pods."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(mesh, pod)) for pod in pods]


class Events:
    """The mesh's connections from now on."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        now = datetime.now(UTC)
        self._since = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as Envoy has it

    def all(self) -> list[dict[str, Any]]:
        """Those so far, with ``source`` and ``destination`` by pod."""
        return [
            event
            | {
                "source": event["source"]["pod"],
                "source_port": event["source"]["port"],
                "destination": event["destination"]["pod"],
                "port": event["destination"]["port"],
            }
            for event in self._mesh.events()
            if datetime.fromisoformat(event["time"]) >= self._since
        ]

    def one(self, **wanted: Any) -> dict[str, Any]:
        """Wait for one with these properties."""
        found = eventually(
            lambda: next((event for event in self.all() if wanted.items() <= event.items()), None),
            what=f"a connection with {wanted}",
        )
        assert found is not None
        return found


def _sayings(name: str, decision: Mapping[str, Any]) -> set[tuple[str, str]]:
    if not decision["mode"]:
        return set()
    by = decision["decided_by"]["policy"]
    return {(name, decision["mode"]), (name, f"{decision['mode']} by {by}")}
