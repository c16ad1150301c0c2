"""`troth plan`, and how it reads: the modes that change, then who is hurt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from troth.cli.annotations import as_github, as_sarif, of_plan
from troth.cli.asked import asked_cluster, full_object_name, mesh_of
from troth.cli.console import coloured, counted, moment, print_json, print_lines, print_tables
from troth.cli.manifests import (
    FILES_HELP,
    ROOT_NAMESPACE,
    pass_on_warnings,
    read_manifests,
    warn_of_errors,
)
from troth.cli.options import (
    CheckOutput,
    CheckOutputOption,
    ContextOption,
    KubeconfigOption,
    NamespaceOption,
    RootNamespaceOption,
)
from troth.cli.policies import VERDICTS, commented, manifest_yaml
from troth.errors import InputError, Severity
from troth.explain.plan import plan
from troth.manifests.amend import amend, as_applied
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from troth.explain.audit_report import Proposal
    from troth.explain.noted import Plaintext
    from troth.explain.plan import Affected, Change, Plan
    from troth.manifests.collect import Manifests
    from troth.policy.model import Mode

_FAILURES = frozenset({"breaks", "unencrypted", "weaker"})
_MOST_CLIENTS = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("plan")(plan_command)


def plan_command(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Option("--filename", "-f", help=f"What is in force today. {FILES_HELP}"),
    ] = None,
    new_files: Annotated[
        list[Path] | None,
        typer.Option("--with", help=f"Objects to add or to replace by identity. {FILES_HELP}"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND/NAMESPACE/NAME", help="An object to take out; may be repeated."),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: NamespaceOption = None,
    root_namespace: RootNamespaceOption = ROOT_NAMESPACE,
    applied_now: Annotated[
        bool,
        typer.Option(
            "--applied-now",
            help="Take new policies of --with for the youngest, as a cluster would. It is so "
            "anyway if any object given has a creationTimestamp.",
        ),
    ] = False,
    observed: Annotated[
        bool,
        typer.Option("--observed", help="Count the plaintext that the running mesh has seen, too."),
    ] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            metavar="WHAT,...",
            help="What makes the exit code 1: breaks (a client would be refused), unencrypted (a "
            "connection would lose its encryption), weaker (a port would take what it refuses "
            "today), or none.",
        ),
    ] = "breaks,unencrypted",
    output: CheckOutputOption = CheckOutput.TEXT,
) -> int:
    """Say what a change would do: modes, who is refused, what loses encryption.

    The exit code is 0 when nothing that --fail-on names would happen, and 1 when something would,
    or when a part of the answer is unknown: for errors, missing rights, or objects that make pods
    of which nothing is known.
    """
    failures = _failures(fail_on)
    if not new_files and not without:
        raise typer.BadParameter("say what would change: --with or --without")
    cluster = asked_cluster(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, files=files
    )
    if cluster:
        namespace = cluster.namespace
    elif not files:
        raise typer.BadParameter(
            "say what is in force today: --filename PATH, or a cluster by --context"
        )
    current, new = read_manifests(files or [], new_files or [], namespace=namespace)
    if errors := [each for each in new.problems if each.severity is Severity.ERROR]:
        raise InputError(errors)
    if cluster:
        from troth.ask.cluster import read_objects, require_essentials  # noqa: PLC0415 - slow

        found = read_objects(cluster, root_namespace=root_namespace, entrances=True)
        require_essentials(found)
        current = found.manifests
        new = as_applied(new, found.created, now=datetime.now(UTC))
    elif applied_now or current.dated or new.dated:
        # Files that have no date themselves were applied before.
        moment = datetime.now(UTC) + timedelta(seconds=1)
        new = as_applied(new, {k: each.created for k, each in current.policies.items()}, now=moment)
    gone = [full_object_name(name, namespace) for name in without or ()]
    planned = amend(current, new=new, without=gone)
    report = plan(current, planned, root_namespace=root_namespace)
    if observed:
        changing = sorted({each.workload.namespace for each in report.changes})
        seen = mesh_of(cluster).plaintext(changing)
        report = plan(current, planned, root_namespace=root_namespace, observed=seen)
    _print(report, planned, output)
    failed = any(getattr(report, name) for name in (*failures, "problems", "unknown"))
    return 1 if failed else 0


def _print(report: Plan, planned: Manifests, output: CheckOutput) -> None:
    match output:
        case CheckOutput.SARIF:
            print_json(as_sarif(of_plan(report, planned.policies)))
            return
        case CheckOutput.GITHUB:
            print_lines(as_github(of_plan(report, planned.policies)))
            return
    warn_of_errors(report.problems)
    pass_on_warnings(report.warnings)
    if output is CheckOutput.JSON:
        print_json(report)
    else:
        print_tables(render_plan(report))


def _failures(text: str) -> frozenset[str]:
    """The fields of a plan that are to be empty."""
    if text == "none":
        return frozenset()
    names = frozenset(text.split(","))
    if not names <= _FAILURES:
        words = ", ".join(sorted(names - _FAILURES))
        raise typer.BadParameter(
            f"--fail-on: {words!r} is none of {', '.join(sorted(_FAILURES))} and none"
        )
    return names


def render_plan(plan: Plan) -> RenderableType:
    """Everything a change would do, for people."""
    parts: list[RenderableType] = []
    if plan.changes:
        parts += [_changes(plan.changes), ""]
    else:
        parts += ["No port's mode would change.", ""]
    for each in plan.breaks:
        parts += [*_affected("[red]Would be refused[/red]", each), ""]
    for each in plan.unencrypted:
        parts += [*_affected("[yellow]Would no longer be encrypted[/yellow]", each), ""]
    if plan.problems:
        parts.append("[yellow]Some objects can't be read, and the plan is without them.[/yellow]")
    if plan.unknown:
        unknown = Rows("UNKNOWN", "WHY")
        for one in plan.unknown:
            unknown.add_row(escape(str(one.workload)), escape(one.why))
        parts += [unknown, ""]
    if plan.exceptions:
        what = "To keep the front doors open" if len(plan.exceptions) > 1 else "To keep it open"
        too = "" if any(each.replaces for each in plan.exceptions) else ", too"
        parts += [f"{what}, apply this{too}:", *map(_exception, plan.exceptions), ""]
    parts.append(_conclusion(plan))
    return Group(*(Text.from_markup(part) if isinstance(part, str) else part for part in parts))


def _exception(proposal: Proposal) -> Text:
    """The policy that keeps a front door open, to be pasted."""
    metadata = proposal.manifest["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    comments = commented(
        (
            *([f"In place of PeerAuthentication {name}."] if proposal.replaces else []),
            *(f"{each}." for each in proposal.exceptions.values()),
        )
    )
    return Text(f"---\n{comments}{manifest_yaml(proposal)}".rstrip())


def _conclusion(plan: Plan) -> str:
    """All that matters in one line, the worst first."""
    colour, meaning = VERDICTS[plan.verdict]
    said = [meaning] if meaning else []
    if plan.unencrypted:
        said.append("connections would lose their encryption")
    if plan.weaker:
        said.append(f"{_who(plan.weaker)} would be less protected")
    stricter = [each for each in plan.changes if each not in plan.weaker]
    if stricter:
        said.append(f"{_who(stricter)} would be stricter")
    text = "; ".join(said) or "nobody that these manifests show would be refused"
    return f"[{colour}]Breaks: {plan.verdict}.[/] {text[0].upper()}{text[1:]}."


def _who(changes: Sequence[Change]) -> str:
    count = len({each.workload for each in changes})
    return "1 workload" if count == 1 else f"{count} workloads"


def _changes(changes: Sequence[Change]) -> Rows:
    """Ports of a workload that change alike share a row."""
    alike: dict[object, list[Change]] = {}
    for each in changes:
        alike.setdefault((each.workload, each.before, each.after, each.decided_by), []).append(each)
    rows = Rows("WORKLOAD", "PORT", "FROM", "TO", "DECIDED BY")
    last = None
    for group in alike.values():
        first = group[0]
        rows.add_row(
            escape(str(first.workload)) if first.workload != last else "",
            _ports(group, alone=first.workload != last),
            _mode(first.before),
            _mode(first.after),
            escape(str(first.decided_by)) if first.decided_by else "",
        )
        last = first.workload
    return rows


def _ports(changes: Sequence[Change], *, alone: bool) -> str:
    ports = ", ".join(str(each.port) for each in changes if each.port is not None)
    if changes[-1].port is not None:
        return ports
    if not ports:
        return "all" if alone else "others"
    return f"{ports} and others"


def _affected(what: str, affected: Affected) -> list[RenderableType]:
    """Who can't go on where, as two short lists rather than all their pairs."""
    names = [str(client) for client in affected.clients]
    hidden = len(names) - _MOST_CLIENTS
    clients = ", ".join(names[:_MOST_CLIENTS]) + (f" and {hidden} more" if hidden > 0 else "")
    seen = any(port.seen for port in affected.ports)
    doors = any(port.front_doors for port in affected.ports)
    more = [*(["SEEN IN PLAINTEXT"] if seen else []), *(["FRONT DOOR"] if doors else [])]
    rows = Rows("TO", "PORT", "FROM", "TO BE", *more)
    for port in affected.ports:
        rows.add_row(
            escape(str(port.workload)),
            "all" if port.port is None else str(port.port),
            _mode(port.before),
            _mode(port.after),
            *([escape("\n".join(map(_seen, port.seen)))] if seen else []),
            *([escape("\n".join(map(str, port.front_doors)))] if doors else []),
        )
    callers = {each.clients: None for port in affected.ports for each in port.front_doors}
    whose = [*([clients] if names else []), *callers]
    of_whom = f"connections of {', '.join(whose) or 'clients seen'}"
    return [f"{what}: {escape(of_whom)}", Padding(rows, (0, 0, 0, 2), expand=False)]


def _seen(seen: Plaintext) -> str:
    return f"{seen.source}, {counted(seen.count, 'time')}, last {moment(seen.last)}"


def _mode(mode: Mode | None) -> str:
    return coloured(mode) if mode else "[dim]not in the mesh[/dim]"
