"""`troth explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from troth.cli._console import Output, OutputOption, out, print_json
from troth.cli._manifests import FILES_HELP, ROOT_NAMESPACE, read_manifests, warn_of_errors
from troth.cli._render_explain import render_derivation
from troth.errors import InputError, Problem
from troth.explain import Derivation, explain
from troth.identity import TrustDomain
from troth.local import StateDirectory, call


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("explain")(explain_command)


def explain_command(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="NAMESPACE/WORKLOAD",
            help="A Pod, Deployment or the like by name, or labels: finance/app=payments,tier=db.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--filename", "-f", help=f"{FILES_HELP} Without any, the running mesh is asked."
        ),
    ] = None,
    root_namespace: Annotated[
        str | None,
        typer.Option(help=f"Where policies without a selector are mesh-wide: {ROOT_NAMESPACE}."),
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option(help="The trust domain of every identity: cluster.local.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say which mutual TLS mode holds for a workload's ports, and which policy decides, and why."""
    if files:
        (manifests,) = read_manifests(files)
        warn_of_errors(manifests.problems)
        derivation = explain(
            manifests,
            workload,
            root_namespace=root_namespace or ROOT_NAMESPACE,
            trust_domain=TrustDomain.parse(trust_domain or "cluster.local"),
        )
    else:
        _only_with_files(root_namespace, trust_domain)
        (answer,) = call(StateDirectory().control, "explain", name=workload)
        derivation = msgspec.convert(answer, Derivation, strict=False)
    if output is Output.JSON:
        print_json(derivation.explanation)
    else:
        out.print(render_derivation(derivation))
    return 0


def _only_with_files(*options: str | None) -> None:
    if any(option is not None for option in options):
        raise InputError(
            [
                Problem(
                    subject="--root-namespace and --trust-domain",
                    path="",
                    found="are set in the running mesh already",
                    wanted="leave them out, or give manifests with -f",
                )
            ]
        )
