"""The queries to a running mesh, wherever it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from troth.connect.report import Diagnosis, TraceQuestion
    from troth.control.messages import MeshStatus
    from troth.errors import Problem
    from troth.explain.audit_report import Audit
    from troth.explain.cluster_status import ClusterStatus
    from troth.explain.explain import Derivation
    from troth.explain.noted import Plaintext
    from troth.explain.why import Unanswered, Why
    from troth.traffic.connection import Connection

    Tell = Callable[[str, str], None]
    """Called with what an answer lacks, and why."""


class Heard(NamedTuple):
    """Some events of a mesh.

    Attributes:
        connections: Oldest first.
        left_out: How many older ones were left out because there were too many.
        unanswered: The nodes that didn't answer.
    """

    connections: tuple[Connection, ...]
    left_out: int = 0
    unanswered: tuple[Unanswered, ...] = ()


class Mesh(Protocol):
    """A running mesh; every method raises TrothError if it refuses or can't answer."""

    @property
    def namespace(self) -> str | None:
        """The namespace of names without one; None if each name has its own."""

    @property
    def has_authority(self) -> bool:
        """Whether traces can present certificates that the mesh's own authority signs for them."""

    def followed(self) -> tuple[Path, ...]:
        """The paths that the mesh follows: it applies changes there at once."""

    def status(self, *, root_namespace: str, trust_domain: str) -> MeshStatus | ClusterStatus:
        """The status of the mesh.

        Args:
            root_namespace: Where a cluster has mesh-wide policies.
            trust_domain: The trust domain of every identity in a cluster.
        """

    def why(self, about: str | None, *, most: int) -> Why:
        """Why connections were refused or failed.

        Args:
            about: ``NAMESPACE/NAME`` of the only pod, workload or service of interest.
            most: The maximum number of refusals to explain.
        """

    def audit(self, *, seconds: float) -> Audit:
        """Who connected to whom in the last ``seconds``, and who is ready for STRICT."""

    def events(self, *, follow: bool) -> Iterator[Heard]:
        """The newest connections; with ``follow`` also later ones, without end."""

    def trace(self, question: TraceQuestion) -> Diagnosis:
        """Make one connection and trace one handshake."""

    def explain(
        self, name: str, *, root_namespace: str | None, trust_domain: str | None
    ) -> tuple[Derivation, tuple[Problem, ...]]:
        """Which mode applies to a workload and why, and what could not be read.

        Args:
            name: ``NAMESPACE/NAME``, or labels after a namespace.
            root_namespace: Where a cluster has mesh-wide policies; None for the default.
            trust_domain: The trust domain of every identity in a cluster; None for the default.
        """

    def plaintext(self, namespaces: Iterable[str]) -> tuple[Plaintext, ...]:
        """Who spoke plaintext to workloads of these namespaces; gaps in the answer are reported."""
