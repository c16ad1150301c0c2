"""`troth status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from troth.cli.asked import asked_mesh
from troth.cli.console import Output, OutputOption, print_json, print_tables
from troth.cli.options import ContextOption, KubeconfigOption
from troth.cli.render.status import render_status
from troth.errors import Severity
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN
from troth.mesh.world import DEFAULT_HOME, DEFAULT_ROOT_NAMESPACE


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
    ] = DEFAULT_HOME,
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
