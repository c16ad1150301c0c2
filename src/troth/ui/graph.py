"""Who talks to whom, as a graph of workloads: a value with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.explain.why import Refusal
from troth.policy.model import Mode
from troth.traffic.connection import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.explain.audit_report import Audit, WorkloadAudit
    from troth.explain.why import Why

OUTSIDE = ""
"""The area of clients that are no workload: addresses."""


class Passage(StrEnum):
    """How the connections of an edge pass: the worst of those seen."""

    TUNNEL = "tunnel"
    PLAINTEXT = "plaintext"
    REFUSED = "refused"
    FAILED = "failed"


class Vertex(msgspec.Struct, frozen=True, kw_only=True):
    """A workload, or an address that is none's.

    Attributes:
        key: ``NAMESPACE/NAME``, or the address.
        area: Its namespace; `OUTSIDE` for an address.
        in_mesh: Whether it is in the mesh.
        captured: Whether all its pods are captured.
        why: Why they aren't; empty where they are or needn't be.
        mode: The effective mode of ports that ``ports`` doesn't name; None outside the mesh.
        ports: The modes of its ports.
        ready: Whether it could take STRICT by what was seen.
        x: Its place, in units of the picture; likewise ``y``.
    """

    key: str
    area: str
    name: str
    in_mesh: bool
    captured: bool = False
    why: str = ""
    mode: Mode | None = None
    ports: Mapping[int, Mode] = {}
    ready: bool = False
    x: float = 0.0
    y: float = 0.0


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """Connections from one vertex to a port of another.

    Attributes:
        source: A vertex's key; likewise ``destination``.
        passage: How they pass.
        tunnel: How many came by the tunnel; likewise ``plaintext``.
        refused: How many were refused.
        failed: How many failed though nothing forbade them.
        last: When the newest of them began.
        refusals: Why some were refused or failed, and what to do.
    """

    source: str
    destination: str
    port: int
    passage: Passage
    tunnel: int = 0
    plaintext: int = 0
    refused: int = 0
    failed: int = 0
    last: datetime
    refusals: tuple[Refusal, ...] = ()


class Area(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace as a rectangle around its vertices, in units of the picture."""

    name: str
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A mesh at one moment; ``/api/graph`` of `troth ui` answers exactly this.

    Attributes:
        since: The start of the time looked at.
        vertices: By key.
        edges: By destination, port and source.
        areas: By name.
        problems: What is wrong with the mesh as a whole or could not be told, in words.
        width: Of the picture, in its units; likewise ``height``.
    """

    schema: Literal["troth/graph/v1"] = "troth/graph/v1"
    since: datetime
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    areas: tuple[Area, ...]
    problems: tuple[str, ...] = ()
    width: float = 0.0
    height: float = 0.0


def graph_of(audit: Audit, why: Why) -> Graph:
    """The graph of what was seen, with everything at the origin: `troth.ui.layout` places it."""
    edges = {(edge.source, edge.destination, edge.port): edge for edge in _seen(audit)}
    for refusal in why.refusals:
        if refusal.last < audit.since:
            continue
        key = (refusal.source, refusal.destination, refusal.port)
        edges[key] = _with(edges.get(key), refusal)
    vertices = {each.key: _vertex(each) for each in audit.workloads}
    outside = frozenset(audit.outside)
    for name in (*outside, *(end for key in edges for end in key[:2])):
        if name not in vertices:
            area, slash, short = name.rpartition("/")
            vertices[name] = Vertex(
                key=name,
                area=area if slash else OUTSIDE,
                name=short,
                in_mesh=False,
                why="" if name in outside else "no workload that is there now",
            )
    problems = (
        *(f"{each.pod} is not captured: {each.why}" for each in why.not_captured),
        *(f"Envoy refuses {each}" for each in why.refused_by_envoy),
        *(f"node {each.node} did not answer: {each.why}" for each in audit.unanswered),
        *map(str, audit.problems),
    )
    return Graph(
        since=max(audit.since, audit.complete_since),
        vertices=tuple(vertices[key] for key in sorted(vertices)),
        edges=tuple(edges[key] for key in sorted(edges, key=lambda key: (key[1], key[2], key[0]))),
        areas=tuple(Area(name=name) for name in sorted({v.area for v in vertices.values()})),
        problems=problems,
    )


def _vertex(workload: WorkloadAudit) -> Vertex:
    return Vertex(
        key=workload.key,
        area=workload.namespace,
        name=workload.name,
        in_mesh=True,
        captured=workload.captured,
        why=workload.why,
        mode=workload.mode,
        ports={number: port.mode for number, port in sorted(workload.ports.items())},
        ready=workload.ready,
    )


def _seen(audit: Audit) -> Iterator[Edge]:
    for pair in audit.pairs:
        yield Edge(
            source=pair.source,
            destination=pair.destination,
            port=pair.port,
            passage=_passage(pair.tunnel, pair.plaintext, pair.refused),
            tunnel=pair.tunnel,
            plaintext=pair.plaintext,
            refused=pair.refused,
            last=pair.last,
        )


def _passage(tunnel: int, plaintext: int, refused: int) -> Passage:
    if refused:
        return Passage.REFUSED
    if plaintext:
        return Passage.PLAINTEXT
    return Passage.TUNNEL if tunnel else Passage.FAILED


def _with(edge: Edge | None, refusal: Refusal) -> Edge:
    """An edge with a reason why some of its connections were refused or failed."""
    refused = refusal.outcome is Outcome.REFUSED
    if edge is None:
        edge = Edge(
            source=refusal.source,
            destination=refusal.destination,
            port=refusal.port,
            passage=Passage.REFUSED if refused else Passage.FAILED,
            refused=refusal.count if refused else 0,
            last=refusal.last,
        )
    return msgspec.structs.replace(
        edge,
        failed=edge.failed + (0 if refused else refusal.count),
        last=max(edge.last, refusal.last),
        refusals=(*edge.refusals, refusal),
    )
