"""A cluster's status for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from troth.cli.console import coloured
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from rich.console import RenderableType

    from troth.explain.cluster_report import (
        ClusterPod,
        ClusterStatus,
        NodeStatus,
        TrustBundleStatus,
    )

_YES = {True: "yes", False: "no", None: "unknown"}


def render_cluster_status(status: ClusterStatus, *, now: datetime) -> RenderableType:
    """All of it; ``now`` is what ages are counted from."""
    parts: list[RenderableType] = []
    if status.pods:
        parts += [_pods(status.pods), ""]
    else:
        parts += ["No pod runs in a namespace of the mesh.", ""]
    if status.nodes:
        parts += [_nodes(status.nodes, now), ""]
    parts += map(Text.from_markup, _control(status, now))
    for problem in status.problems:
        text = f"[yellow]{problem.severity}:[/yellow] {escape(str(problem))}"
        parts.append(Text.from_markup(text))
    for blocker in status.waiting_for:
        parts.append(Text.from_markup(f"[yellow]waiting for[/yellow] {escape(blocker)}"))
    return Group(*parts)


def _pods(pods: tuple[ClusterPod, ...]) -> Rows:
    rows = Rows("POD", "NODE", "READY", "CAPTURED", "MODE", "DECIDED BY", "IDENTITY")
    for pod in pods:
        settled = pod.in_mesh and pod.captured
        rows.add_row(
            f"{escape(pod.namespace)}/{escape(pod.name)}",
            escape(pod.node),
            _YES[pod.ready],
            _YES[pod.captured],
            coloured(pod.mode) if pod.mode else "",
            escape(str(pod.decided_by)) if pod.decided_by else "",
            escape(pod.identity or "") if settled else f"[dim]{escape(pod.why)}[/dim]",
        )
        for number, port in pod.ports.items():
            if (port.mode, port.decided_by) != (pod.mode, pod.decided_by):
                mode, decider = coloured(port.mode), escape(str(port.decided_by))
                rows.add_row(f"  port {number}", "", "", "", mode, decider)
    return rows


def _nodes(nodes: tuple[NodeStatus, ...], now: datetime) -> Rows:
    rows = Rows("NODE", "REPORTED", "ENFORCES ALL", "CAPTURED", "TROUBLE")
    for node in nodes:
        rows.add_row(
            escape(node.name),
            _ago(node.reported, now),
            _YES[node.enforces_all],
            "unknown" if node.captured is None else str(node.captured),
            escape(node.why),
        )
    return rows


def _control(status: ClusterStatus, now: datetime) -> Iterator[str]:
    controller = status.controller
    if controller is not None and controller.leader:
        renewed = _ago(controller.renewed, now)
        yield f"Controller {escape(controller.leader)} leads; renewed {renewed}."
    if status.trust_bundle is not None:
        yield from _roots(status.trust_bundle, now)


def _roots(bundle: TrustBundleStatus, now: datetime) -> Iterator[str]:
    for root in bundle.roots:
        ends = f"expires in {_span(root.expires - now)}" if root.expires > now else "has expired"
        signs = "signs, and " if root.signing else ""
        yield f"Root {root.fingerprint[:16]} ({escape(root.subject)}) {signs}{ends}."


def _ago(moment: datetime | None, now: datetime) -> str:
    # The other clock may be a little ahead.
    return "never" if moment is None else f"{_span(max(now - moment, now - now))} ago"


def _span(span: timedelta) -> str:
    """Two days or more as days, else in the largest unit that gives at least two."""
    seconds = int(span.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
