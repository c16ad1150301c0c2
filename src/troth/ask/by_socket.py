"""Queries to the mesh on this machine.

Modules that only one answer needs are imported with it: a command asks one question, and should
answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.control.protocol import ask, call
from troth.errors import InputError, PeerError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.ask.mesh import Heard, Tell
    from troth.connect.findings import Attempt, Listening, Route
    from troth.connect.report import Credentials, Diagnosis, Trace, TraceQuestion
    from troth.control.messages import MeshStatus
    from troth.control.state_dir import StateDirectory
    from troth.explain.audit_report import Audit
    from troth.explain.explain import Derivation
    from troth.explain.noted import Plaintext
    from troth.explain.why import Why
    from troth.mesh.model import EnvoyStatus
    from troth.traffic.connection import Cause, Connection

_MOST_REFUSALS = 1000


class SocketMesh:
    """The mesh on this machine, as a `Mesh`.

    Args:
        state: Its state directory.
        namespace: Ask only about this one's pods; None for all.
        tell: Called with what an answer lacks.
    """

    has_authority = True

    def __init__(self, state: StateDirectory, *, namespace: str | None, tell: Tell) -> None:
        self.namespace = namespace
        self._state = state
        self._tell = tell

    def followed(self) -> tuple[Path, ...]:
        """The paths of its manifests."""
        return tuple(map(Path, self._state.read_settings().paths))

    def status(self, *, root_namespace: str, trust_domain: str) -> MeshStatus:  # noqa: ARG002 - set where it was started
        """The status of the mesh."""
        from troth.control.messages import MeshStatus  # noqa: PLC0415 - see above

        status = ask(self._state.control, "status", MeshStatus)
        pods = tuple(each for each in status.pods if self._concerns(f"{each.namespace}/"))
        return msgspec.structs.replace(status, pods=pods)

    def why(self, about: str | None, *, most: int) -> Why:
        """Why connections were refused or failed."""
        from troth.explain.why import Why  # noqa: PLC0415 - see above

        count = most if self.namespace is None else _MOST_REFUSALS
        report = ask(self._state.control, "why", Why, about=about, count=count)
        refusals = [
            each for each in report.refusals if self._concerns(each.source, each.destination)
        ]
        missing = [each for each in report.not_captured if self._concerns(each.pod)]
        return msgspec.structs.replace(
            report, refusals=tuple(refusals[:most]), not_captured=tuple(missing)
        )

    def audit(self, *, seconds: float) -> Audit:
        """Who connected to whom, and who is ready for STRICT."""
        from troth.explain.audit_report import Audit  # noqa: PLC0415 - see above

        report = ask(self._state.control, "audit", Audit, seconds=seconds)
        if self.namespace is None:
            return report
        workloads = tuple(each for each in report.workloads if each.namespace == self.namespace)
        return msgspec.structs.replace(
            report,
            ready=all(each.ready for each in workloads),
            workloads=workloads,
            pairs=tuple(
                each for each in report.pairs if self._concerns(each.source, each.destination)
            ),
            policies=tuple(each for each in report.policies if self._concerns(*each.workloads)),
            left_out=tuple(each for each in report.left_out if self._concerns(each.workload)),
        )

    def events(self, *, follow: bool) -> Iterator[Heard]:
        """The newest connections."""
        from troth.ask.mesh import Heard  # noqa: PLC0415 - see above
        from troth.traffic.connection import Connection  # noqa: PLC0415 - see above

        for answer in call(self._state.control, "events", follow=follow):
            connection = msgspec.convert(answer, Connection)
            if self._concerns(connection.source.workload, connection.destination.workload):
                yield Heard((connection,))

    def trace(self, question: TraceQuestion) -> Diagnosis:
        """Make one connection and trace one handshake."""
        from troth.connect.diagnose import diagnose  # noqa: PLC0415 - see above

        return diagnose(SocketConnector(self._state.control), question)

    def explain(
        self, name: str, *, root_namespace: str | None, trust_domain: str | None
    ) -> tuple[Derivation, tuple[Problem, ...]]:
        """Which mode applies to a workload, and why.

        Raises:
            InputError: An argument is given that is a setting of the mesh.
        """
        from troth.explain.explain import Derivation  # noqa: PLC0415 - see above

        if root_namespace is not None or trust_domain is not None:
            problem = Problem(
                subject="--root-namespace and --trust-domain",
                path="",
                found="are set in the running mesh already",
                wanted="leave them out, or give manifests with -f or a cluster with --context",
            )
            raise InputError([problem])
        return ask(self._state.control, "explain", Derivation, name=name), ()

    def plaintext(self, namespaces: Iterable[str]) -> tuple[Plaintext, ...]:  # noqa: ARG002 - it knows of all alike
        """Who spoke plaintext."""
        from troth.explain.noted import seen_in_plaintext  # noqa: PLC0415 - see above

        try:
            return seen_in_plaintext(
                connection
                for heard in self.events(follow=False)
                for connection in heard.connections
            )
        except PeerError as error:
            self._tell("nothing observed", str(error))
            return ()

    def _concerns(self, *names: str | None) -> bool:
        """Whether one of the names is ``NAMESPACE/NAME`` of the namespace asked about."""
        start = f"{self.namespace}/"
        return self.namespace is None or any(name.startswith(start) for name in names if name)


class SocketConnector:
    """A `Connector` for the mesh behind a control socket.

    Args:
        path: The socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def route(self, source: str, destination: str, port: int) -> Route:
        """Where a connection would go."""
        from troth.connect.findings import Route  # noqa: PLC0415 - see above

        return ask(self._path, "route", Route, source=source, destination=destination, port=port)

    def connect(
        self, source: str, destination: str, port: int, *, past_tunnel: bool, seconds: float
    ) -> Attempt:
        """Make a connection."""
        from troth.connect.findings import Attempt  # noqa: PLC0415 - see above

        return ask(
            self._path,
            "connect",
            Attempt,
            source=source,
            destination=destination,
            port=port,
            uncaptured=past_tunnel,
            timeout=seconds,
        )

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
        from troth.connect.report import Trace  # noqa: PLC0415 - see above

        return ask(
            self._path,
            "trace",
            Trace,
            source=source,
            destination=destination,
            port=port,
            credentials=credentials,
            claim=claim,
        )

    def cause(self, connection: Connection) -> Cause:
        """Cause and remedy of a connection."""
        from troth.traffic.connection import Cause  # noqa: PLC0415 - see above

        return ask(self._path, "cause", Cause, connection=connection)

    def listening(self, pod: str) -> Listening:
        """Where a pod's processes listen."""
        from troth.connect.findings import Listening  # noqa: PLC0415 - see above

        return ask(self._path, "listening", Listening, name=pod)

    def envoy(self) -> EnvoyStatus:
        """Envoy's status."""
        from troth.control.messages import MeshStatus  # noqa: PLC0415 - see above

        return ask(self._path, "status", MeshStatus).envoy
