"""What a running mesh can be asked, wherever it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from troth.connect.report import Diagnosis, TraceQuestion
    from troth.control.messages import MeshStatus
    from troth.errors import Problem
    from troth.explain.audit_report import Audit
    from troth.explain.cluster_report import ClusterStatus
    from troth.explain.explain import Derivation
    from troth.explain.noted import Plaintext
    from troth.explain.why import Unanswered, Why
    from troth.traffic.connection import Connection

    Tell = Callable[[str, str], None]
    """Takes what an answer is without, and why."""


class Heard(NamedTuple):
    """Some events of a mesh.

    Attributes:
        connections: The oldest first.
        left_out: How many older ones were too many to tell.
        unanswered: The nodes that have not said what they have seen.
    """

    connections: tuple[Connection, ...]
    left_out: int = 0
    unanswered: tuple[Unanswered, ...] = ()


class Mesh(Protocol):
    """A running mesh; every method raises TrothError for what it refuses or can't tell."""

    @property
    def namespace(self) -> str | None:
        """That of names without one; None where each has its own."""

    @property
    def has_authority(self) -> bool:
        """Whether traces can show what the mesh's own authority signs for them."""

    def followed(self) -> tuple[Path, ...]:
        """The paths from which the mesh takes what changes there at once."""

    def status(self, *, root_namespace: str, trust_domain: str) -> MeshStatus | ClusterStatus:
        """How it is.

        Args:
            root_namespace: Where a cluster has mesh-wide policies.
            trust_domain: Of every identity in a cluster.
        """

    def why(self, about: str | None, *, most: int) -> Why:
        """Why connections were refused or failed.

        Args:
            about: ``NAMESPACE/NAME`` of the one pod, workload or service to speak of.
            most: How many refusals to explain.
        """

    def audit(self, *, seconds: float) -> Audit:
        """Who connected to whom in the last ``seconds``, and who is ready for STRICT."""

    def events(self, *, follow: bool) -> Iterator[Heard]:
        """The newest connections; with ``follow`` also what comes, without an end."""

    def trace(self, question: TraceQuestion) -> Diagnosis:
        """Make one connection and trace one handshake."""

    def explain(
        self, name: str, *, root_namespace: str | None, trust_domain: str | None
    ) -> tuple[Derivation, tuple[Problem, ...]]:
        """Which mode holds for a workload and why, and what could not be read.

        Args:
            name: ``NAMESPACE/NAME``, or labels after a namespace.
            root_namespace: Where a cluster has mesh-wide policies; None for the usual place.
            trust_domain: Of every identity in a cluster; None for the usual one.
        """

    def plaintext(self, namespaces: Iterable[str]) -> tuple[Plaintext, ...]:
        """Who spoke plaintext to workloads of these namespaces; what can't be told is noted."""
