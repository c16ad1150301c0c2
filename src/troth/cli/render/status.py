"""How a local mesh's status reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from troth.cli.console import coloured
from troth.control.messages import State
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from troth.control.messages import PodReport, PortStatus

_MINUTES = 60
_OF_PHASE = frozenset({"PodInitializing", "Completed", "Stopped"})
"""Reasons that say no more than the pod's phase."""


def render_pods(pods: Sequence[PodReport], *, now: datetime) -> Rows:
    """A row for each pod and each of its ports that differs, as of ``now``."""
    rows = Rows("POD", "PHASE", "READY", "CAPTURED", "MODE", "DECIDED BY", "IDENTITY", "CERT")
    for pod in pods:
        rows.add_row(
            f"{pod.namespace}/{pod.name}",
            _doing(pod),
            "yes" if pod.ready else "no",
            "yes" if pod.captured else "no",
            coloured(pod.mode) if pod.mode else "",
            str(pod.decided_by) if pod.decided_by else "",
            escape(pod.identity)
            if pod.identity and pod.captured
            else f"[dim]not captured: {escape(pod.why)}[/dim]",
            _left(pod.certificate_expires, now),
        )
        for number, port in _deviating(pod):
            rows.add_row(f"  port {number}", "", "", "", coloured(port.mode), str(port.decided_by))
    return rows


def _doing(pod: PodReport) -> str:
    """The phase or, where a container doesn't run, why; as kubectl has it."""
    stopped = (each for each in pod.containers if each.state is not State.RUNNING and each.reason)
    last = next(stopped, None)
    return pod.phase if last is None or last.reason in _OF_PHASE else last.reason


def _deviating(pod: PodReport) -> Iterator[tuple[int, PortStatus]]:
    """The ports whose mode isn't the pod's, or comes from elsewhere."""
    for number, port in pod.ports.items():
        if (port.mode, port.decided_by) != (pod.mode, pod.decided_by):
            yield number, port


def _left(until: datetime | None, now: datetime) -> str:
    if until is None:
        return ""
    minutes = int((until - now).total_seconds() // 60)
    hours, rest = divmod(minutes, _MINUTES)
    return f"{hours}h{rest:02}m" if hours > 0 else f"{minutes}m"
