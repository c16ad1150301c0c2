"""`troth status`, and how it reads: on one machine, and in a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from troth.cli.asked import asked_mesh
from troth.cli.console import Output, OutputOption, coloured, print_json, print_tables
from troth.cli.options import ContextOption, KubeconfigOption
from troth.control.messages import MeshStatus, State
from troth.errors import Severity
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN
from troth.manifests.runnable import consequence, ignored_notice
from troth.mesh.world import DEFAULT_HOME, DEFAULT_ROOT_NAMESPACE
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from rich.console import RenderableType

    from troth.control.messages import PodReport
    from troth.explain.cluster_status import (
        ClusterPod,
        ClusterStatus,
        NodeStatus,
        TrustBundleStatus,
    )
    from troth.policy.verdict import PortMode

_MINUTES = 60
_OF_PHASE = frozenset({"PodInitializing", "Completed", "Stopped"})
"""Reasons that say no more than the pod's phase."""

_YES = {True: "yes", False: "no", None: "unknown"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("status")(status)


def status(
    ctx: typer.Context,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", metavar="NAMESPACE", help="Only the pods of this namespace."
        ),
    ] = None,
    troth_namespace: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE", help="In a cluster: where the controller and the node agents run."
        ),
    ] = DEFAULT_HOME,
    root_namespace: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE",
            help="In a cluster: where policies without a selector are mesh-wide.",
        ),
    ] = DEFAULT_ROOT_NAMESPACE,
    trust_domain: Annotated[
        str,
        typer.Option(metavar="DOMAIN", help="In a cluster: the trust domain of every identity."),
    ] = DEFAULT_TRUST_DOMAIN,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show each pod: identity, mode of every port, certificate, captured or why not.

    In a cluster it shows the nodes, the controller and the roots, too. The exit code is 0 when all
    is as it should be, and 1 when something is missing or refused.
    """
    mesh = asked_mesh(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, home=troth_namespace
    )
    report = mesh.status(root_namespace=root_namespace, trust_domain=trust_domain)
    if output is Output.JSON:
        print_json(report)
    else:
        print_tables(render_status(report, now=datetime.now(UTC)))
    refused = any(problem.severity is Severity.ERROR for problem in report.problems)
    return 0 if report.ready and not refused else 1


def render_status(status: MeshStatus | ClusterStatus, *, now: datetime) -> RenderableType:
    """All of it; ``now`` is what ages are counted from."""
    return _of_machine(status, now) if isinstance(status, MeshStatus) else _of_cluster(status, now)


def _of_machine(mesh: MeshStatus, now: datetime) -> RenderableType:
    lines = [
        *(f"[red]refused by Envoy:[/red] {escape(each)}" for each in mesh.envoy.refused),
        *(f"[yellow]{each.severity}:[/yellow] {escape(str(each))}" for each in mesh.problems),
        *(
            f"[yellow]warning:[/yellow] {escape(ignored_notice(kind))}"
            for kind in mesh.ignored
            if consequence(kind)
        ),
        *(f"[yellow]waiting for[/yellow] {escape(blocker)}" for blocker in mesh.waiting_for),
    ]
    return Group(render_pods(mesh.pods, now=now), *map(Text.from_markup, lines))


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


def _deviating(pod: PodReport) -> Iterator[tuple[int, PortMode]]:
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


def _of_cluster(status: ClusterStatus, now: datetime) -> RenderableType:
    parts: list[RenderableType] = []
    if status.pods:
        parts += [_cluster_pods(status.pods), ""]
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


def _cluster_pods(pods: tuple[ClusterPod, ...]) -> Rows:
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
    rows = Rows("NODE", "REPORTED", "ENFORCES ALL", "CAPTURED", "CNI PLUGIN", "TROUBLE")
    for node in nodes:
        rows.add_row(
            escape(node.name),
            _ago(node.reported, now),
            _YES[node.enforces_all],
            "unknown" if node.captured is None else str(node.captured),
            _YES[node.plugin],
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
