"""`troth status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from troth.cli.cluster import ContextOption, KubeconfigOption, ask_status, chosen_cluster
from troth.cli.console import Output, OutputOption, out, print_json, print_tables
from troth.cli.render.cluster_status import render_cluster_status
from troth.cli.render.status import render_pods
from troth.cluster.contract import DEFAULT_NAMESPACE
from troth.control.messages import MeshStatus
from troth.control.protocol import call
from troth.control.state_dir import StateDirectory
from troth.errors import Severity
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.manifests.runnable import consequence, ignored_notice
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("status")(status)


def status(
    ctx: typer.Context,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Only the pods of this namespace."),
    ] = None,
    troth_namespace: Annotated[
        str, typer.Option(help="In a cluster: where the controller and the node agents run.")
    ] = DEFAULT_NAMESPACE,
    root_namespace: Annotated[
        str, typer.Option(help="In a cluster: where policies without a selector are mesh-wide.")
    ] = DEFAULT_ROOT_NAMESPACE,
    trust_domain: Annotated[
        str, typer.Option(help="In a cluster: the trust domain of every identity.")
    ] = DEFAULT_TRUST_DOMAIN,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show each pod: identity, mode of every port, certificate, captured or why not.

    In a cluster it shows the nodes, the controller and the roots, too. The exit code is 0 when all
    is as it should be, and 1 when something is missing or refused.
    """
    cluster = chosen_cluster(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, or_local=True
    )
    if cluster:
        report = ask_status(
            cluster,
            namespace=namespace or "",
            home=troth_namespace,
            root_namespace=root_namespace,
            trust_domain=TrustDomain.parse(trust_domain),
        )
        if output is Output.JSON:
            print_json(report)
        else:
            print_tables(render_cluster_status(report, now=datetime.now(UTC)))
        return 0 if report.ready else 1
    (answer,) = call(StateDirectory().control, "status")
    mesh = msgspec.convert(answer, MeshStatus, strict=False)
    if namespace is not None:
        pods = tuple(pod for pod in mesh.pods if pod.namespace == namespace)
        mesh = msgspec.structs.replace(mesh, pods=pods)
    if output is Output.JSON:
        print_json(mesh)
    else:
        _print(mesh)
    refused = any(problem.severity is Severity.ERROR for problem in mesh.problems)
    return 0 if mesh.ready and not refused else 1


def _print(mesh: MeshStatus) -> None:
    print_tables(render_pods(mesh.pods, now=datetime.now(UTC)))
    for refused in mesh.envoy.refused:
        out.print(f"[red]refused by Envoy:[/red] {escape(refused)}", soft_wrap=True)
    for problem in mesh.problems:
        out.print(f"[yellow]{problem.severity}:[/yellow] {escape(str(problem))}", soft_wrap=True)
    for kind in mesh.ignored:
        if consequence(kind):
            out.print(f"[yellow]warning:[/yellow] {escape(ignored_notice(kind))}", soft_wrap=True)
    for blocker in mesh.waiting_for:
        out.print(f"[yellow]waiting for[/yellow] {escape(blocker)}", soft_wrap=True)
