"""`troth explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from troth.cli.asked import asked_cluster, asked_mesh, full_name
from troth.cli.console import Output, OutputOption, print_json, print_tables
from troth.cli.manifests import FILES_HELP, ROOT_NAMESPACE, read_manifests, warn_of_errors
from troth.cli.options import ContextOption, KubeconfigOption, NamespaceOption
from troth.cli.render.explain import render_derivation
from troth.explain.explain import explain
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("explain")(explain_command)


def explain_command(
    ctx: typer.Context,
    workload: Annotated[
        str,
        typer.Argument(
            metavar="NAMESPACE/WORKLOAD",
            help="A Pod, Deployment or the like by name, or labels: finance/app=payments,tier=db. "
            "In a cluster the namespace may be left out.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--filename",
            "-f",
            help=f"{FILES_HELP} Without any, and without a cluster, the running mesh is asked.",
        ),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: NamespaceOption = None,
    root_namespace: Annotated[
        str | None,
        typer.Option(help=f"Where policies without a selector are mesh-wide: {ROOT_NAMESPACE}."),
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option(help="The trust domain of every identity: cluster.local.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say which mutual TLS mode holds for a workload's ports, and which policy decides, and why.

    The exit code is 1 when errors hide what could be a policy that counts: one of its own, or a
    file or document that can't be read.
    """
    if files:
        asked_cluster(ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, files=files)
        (manifests,) = read_manifests(files, namespace=namespace)
        left_out = manifests.problems
        derivation = explain(
            manifests,
            full_name(workload, namespace),
            root_namespace=root_namespace or ROOT_NAMESPACE,
            trust_domain=TrustDomain.parse(trust_domain or DEFAULT_TRUST_DOMAIN),
        )
    else:
        mesh = asked_mesh(ctx, context=context, kubeconfig=kubeconfig, namespace=namespace)
        derivation, left_out = mesh.explain(
            full_name(workload, mesh.namespace),
            root_namespace=root_namespace,
            trust_domain=trust_domain,
        )
    hiding = derivation.explanation.problems
    if output is Output.JSON:
        warn_of_errors(left_out)
        print_json(derivation.explanation)
    else:
        warn_of_errors(each for each in left_out if each not in hiding)
        print_tables(render_derivation(derivation))
    return 1 if hiding else 0
