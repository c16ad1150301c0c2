"""`troth explain`, and how it reads: as a derivation, from the widest scope to the narrowest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from troth.cli.asked import asked_cluster, asked_mesh, full_name
from troth.cli.console import Output, OutputOption, coloured, print_json, print_tables
from troth.cli.manifests import FILES_HELP, ROOT_NAMESPACE, read_manifests, warn_of_errors
from troth.cli.options import ContextOption, KubeconfigOption, NamespaceOption
from troth.explain.explain import explain
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.policy.scope import Scope
from troth.policy.verdict import PolicyOutcome
from troth.rows import Rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.explain.explain import Derivation, Explanation

_SCOPES = (Scope.MESH, Scope.NAMESPACE, Scope.WORKLOAD)
_COLOURS = {
    PolicyOutcome.DECIDES: "bold",
    PolicyOutcome.INHERITS: "cyan",
    PolicyOutcome.SHADOWED: "yellow",
    PolicyOutcome.NO_MATCH: "dim",
}


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
        typer.Option(
            metavar="NAMESPACE",
            help=f"Where policies without a selector are mesh-wide: {ROOT_NAMESPACE}.",
        ),
    ] = None,
    trust_domain: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN", help="The trust domain of every identity: cluster.local."),
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


def render_derivation(derivation: Derivation) -> RenderableType:
    """Everything about one workload, for people."""
    explanation = derivation.explanation
    decider = explanation.decided_by
    parts: list[RenderableType] = [
        *_workload(derivation),
        "",
        _scopes(explanation),
        "",
        f"So the mode is {coloured(explanation.mode)}, from {escape(str(decider))}.",
    ]
    if decider.scope is Scope.DEFAULT:
        parts[-1] = (
            f"No policy sets a mode, so it is the default, {coloured(explanation.mode)}: "
            "mutual TLS and plaintext are accepted."
        )
    if explanation.ports:
        parts += ["", _ports(explanation)]
    if not explanation.in_mesh:
        parts += ["", "[yellow]Nothing of this is enforced while it is not in the mesh.[/yellow]"]
    if explanation.problems:
        what = "an object" if len(explanation.problems) == 1 else "objects"
        parts += [
            "",
            f"[red]This may be wrong: {what} that could change it can't be read.[/red]",
            *(f"  {escape(str(each))}" for each in explanation.problems),
        ]
    return Group(*(Text.from_markup(part) if isinstance(part, str) else part for part in parts))


def _workload(derivation: Derivation) -> list[RenderableType]:
    workload = derivation.explanation.workload
    labels = ", ".join(f"{key}={value}" for key, value in workload.labels.items()) or "none"
    belongs = "yes" if derivation.membership.in_mesh else "no"
    if derivation.kind:
        title = f"{derivation.kind} {workload.namespace}/{workload.name}"
    else:
        title = f"Any workload in {workload.namespace} with the labels {workload.name}"
    facts = Rows("", "", header=False)
    facts.add_row("  labels", escape(labels))
    if workload.spiffe_id:
        facts.add_row("  identity", escape(workload.spiffe_id))
    facts.add_row("  in the mesh", escape(f"{belongs}: {derivation.membership.why}"))
    return [f"[bold]{escape(title)}[/bold]", facts]


def _scopes(explanation: Explanation) -> Rows:
    rows = Rows("SCOPE", "POLICY", "VERDICT", "WHY")
    for scope in _SCOPES:
        label = str(scope)
        for each in explanation.considered:
            if each.scope is scope:
                rows.add_row(
                    label,
                    escape(each.policy),
                    f"[{_COLOURS[each.verdict]}]{each.verdict}[/]",
                    escape(each.why),
                )
                label = ""
        if label:
            rows.add_row(label, "[dim]no policy[/dim]", "", "")
    return rows


def _ports(explanation: Explanation) -> Rows:
    rows = Rows("PORT", "MODE", "DECIDED BY")
    rest = (explanation.mode, explanation.decided_by)
    for number, port in explanation.ports.items():
        decider = str(port.decided_by)
        if (port.mode, port.decided_by) != rest:
            decider += ", portLevelMtls"  # nothing else tells ports apart
        rows.add_row(str(number), coloured(port.mode), escape(decider))
    rows.add_row("others", coloured(explanation.mode), escape(str(explanation.decided_by)))
    return rows
