"""`troth explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from troth.cli.cluster import (
    Cluster,
    ContextOption,
    KubeconfigOption,
    NamespaceOption,
    ask_cluster,
    chosen_cluster,
    full_name,
    require_essentials,
    require_no_default,
)
from troth.cli.console import Output, OutputOption, print_json, print_tables
from troth.cli.manifests import FILES_HELP, ROOT_NAMESPACE, read_manifests, warn_of_errors
from troth.cli.render.explain import render_derivation
from troth.control.protocol import call
from troth.control.state_dir import StateDirectory
from troth.errors import InputError, Problem
from troth.explain.explain import Derivation, explain
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
    cluster = chosen_cluster(
        ctx,
        context=context,
        kubeconfig=kubeconfig,
        namespace=namespace,
        files=files,
        or_local=True,
    )
    root = root_namespace or ROOT_NAMESPACE
    domain = TrustDomain.parse(trust_domain or DEFAULT_TRUST_DOMAIN)
    left_out: tuple[Problem, ...] = ()
    if cluster:
        derivation, left_out = _in_cluster(cluster, workload, root, domain)
    elif files:
        (manifests,) = read_manifests(files, namespace=namespace)
        left_out = manifests.problems
        name = full_name(workload, namespace)
        derivation = explain(manifests, name, root_namespace=root, trust_domain=domain)
    else:
        _only_with_files(root_namespace, trust_domain)
        (answer,) = call(StateDirectory().control, "explain", name=full_name(workload, namespace))
        derivation = msgspec.convert(answer, Derivation, strict=False)
    hiding = derivation.explanation.problems
    if output is Output.JSON:
        warn_of_errors(left_out)
        print_json(derivation.explanation)
    else:
        warn_of_errors(each for each in left_out if each not in hiding)
        print_tables(render_derivation(derivation))
    return 1 if hiding else 0


def _in_cluster(
    cluster: Cluster, workload: str, root_namespace: str, trust_domain: TrustDomain
) -> tuple[Derivation, tuple[Problem, ...]]:
    name = full_name(workload, cluster.namespace)
    place = name.partition("/")[0]
    found = ask_cluster(cluster, root_namespace=root_namespace, namespace=place, keep=name)
    require_essentials(found, but_in=root_namespace)
    # What a missing right hides has been looked at above.
    lacking = {each.problem for each in found.unreadable}
    problems = tuple(each for each in found.manifests.problems if each not in lacking)
    manifests = msgspec.structs.replace(found.manifests, problems=problems)
    derivation = explain(manifests, name, root_namespace=root_namespace, trust_domain=trust_domain)
    require_no_default(found, derivation.explanation)
    return derivation, found.manifests.problems


def _only_with_files(*options: str | None) -> None:
    if any(option is not None for option in options):
        raise InputError(
            [
                Problem(
                    subject="--root-namespace and --trust-domain",
                    path="",
                    found="are set in the running mesh already",
                    wanted="leave them out, or give manifests with -f or a cluster with --context",
                )
            ]
        )
